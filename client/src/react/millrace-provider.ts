import { createContext, createElement, useContext, useMemo, type ReactElement, type ReactNode } from "react";
import { createClient } from "../create-client.ts";
import type { RowClient } from "../workflow-store.ts";

export type MillraceProviderProps = {
  readonly children?: ReactNode;
} & (
  | {
      /** A client of yours: with a token, other options, or shared across tabs. It stays yours to close. */
      readonly client: RowClient;
      readonly url?: never;
    }
  | {
      /**
       * Address of the stream server, as for `createClient`. The client is made for the provider: its socket opens
       * with the first component that needs it and closes after the last.
       */
      readonly url: string;
      readonly client?: never;
    }
);

const ClientContext = createContext<RowClient | null>(null);

/**
 * Gives the components below it a client.
 *
 * Rendering opens nothing, neither on a server nor in StrictMode: a subscription begins when a component is mounted.
 *
 * @example
 * ```tsx
 * <MillraceProvider url="ws://127.0.0.1:8001">
 *   <Order id="order-42" />
 * </MillraceProvider>
 * ```
 */
export function MillraceProvider({ client, url, children }: MillraceProviderProps): ReactElement {
  // Made when a hook asks: on a server a page is rendered without a WebSocket, and a relative address has no base.
  const value = useMemo(() => client ?? lazyClient(url), [client, url]);
  return createElement(ClientContext.Provider, { value }, children);
}

/** The client of the nearest {@link MillraceProvider}. Throws when there is none. */
export function useRowClient(): RowClient {
  const client = useContext(ClientContext);
  if (client === null) {
    throw new Error(
      "A Millrace hook was used outside of <MillraceProvider>: put one around the application.",
    );
  }
  return client;
}

function lazyClient(url: string): RowClient {
  let client: RowClient | undefined;
  return {
    subscribe(filter, options) {
      client ??= createClient({ url });
      return client.subscribe(filter, options);
    },
  };
}
