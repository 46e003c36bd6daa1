import { accessSync, constants, readFileSync } from "node:fs";
import type { ConnectionOptions } from "nats";
import { credsAuthenticator, errors } from "nats";
import { MillraceError } from "@millrace/schemas";
import type { Environment } from "./config.ts";

/** What reaches a broker of the user's. Spread it into `connect({...})`. */
export type BrokerConnectionOptions = Pick<
  ConnectionOptions,
  "servers" | "user" | "pass" | "token" | "authenticator" | "tls"
>;

/**
 * Reads how to reach a server or cluster of the user's; undefined when `MILLRACE_NATS_URL` is not set, which means
 * "start the embedded broker".
 *
 * - `MILLRACE_NATS_URL`: `nats://HOST:PORT` or `tls://HOST:PORT`, several separated by commas; may hold
 *   `USER:PASSWORD@` or `TOKEN@`, percent-encoded, the same in each.
 * - `MILLRACE_NATS_USER` and `MILLRACE_NATS_PASSWORD`, or `MILLRACE_NATS_TOKEN`, or `MILLRACE_NATS_CREDS` (path of a
 *   credentials file with JWT and seed): one of the three, also instead of the URL's.
 * - `MILLRACE_NATS_CA`, and `MILLRACE_NATS_CERT` with `MILLRACE_NATS_KEY`: paths of PEM files. Any of them, or
 *   `tls://`, makes TLS a must: a server without it is refused before credentials are sent.
 *
 * Throws `invalid_request` for a value that cannot be used, `broker_auth_failed` for a file that cannot be read.
 * No message contains a password, token or seed.
 */
export function connectionOptionsFromEnvironment(env: Environment): BrokerConnectionOptions | undefined {
  const text = env["MILLRACE_NATS_URL"]?.trim();
  if (text === undefined || text === "") return undefined;
  const urls = text
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "")
    .map(parseServerUrl);
  if (urls.length === 0) throw invalid("MILLRACE_NATS_URL names no server");
  return {
    servers: urls.map((url) => url.host),
    ...credentials(env, urls),
    ...tls(
      env,
      urls.some((url) => url.protocol === "tls:"),
    ),
  };
}

/**
 * The `broker_auth_failed` for an error of `connect()` that means wrong credentials or an untrusted certificate, with
 * the original as `cause`; undefined for every other error. `servers` is for the message.
 */
export function brokerAuthError(
  error: unknown,
  servers: ConnectionOptions["servers"],
): MillraceError | undefined {
  const chain = causes(error);
  const credentialsRefused = chain.some(
    (each) =>
      each instanceof errors.AuthorizationError || each instanceof errors.UserAuthenticationExpiredError,
  );
  const tlsFailed = chain.some(isTlsFailure);
  if (!credentialsRefused && !tlsFailed) return undefined;
  const where = Array.isArray(servers) ? servers.join(", ") : (servers ?? "the broker");
  const reason = chain.map((each) => each.message).find((message) => message !== "") ?? "no reason given";
  return new MillraceError(
    "broker_auth_failed",
    credentialsRefused
      ? `The broker at ${where} refused the credentials (${reason}). Check MILLRACE_NATS_USER and ` +
          `MILLRACE_NATS_PASSWORD, MILLRACE_NATS_TOKEN, MILLRACE_NATS_CREDS, or the part before "@" in MILLRACE_NATS_URL.`
      : `No trusted TLS connection to the broker at ${where} (${reason}). Check MILLRACE_NATS_CA (who signed the ` +
          `server's certificate), MILLRACE_NATS_CERT and MILLRACE_NATS_KEY, and that the host name is in the certificate.`,
    { cause: error, details: { servers: where, kind: credentialsRefused ? "credentials" : "tls" } },
  );
}

function invalid(problem: string, cause?: unknown): MillraceError {
  return new MillraceError(
    "invalid_request",
    `Cannot tell how to reach the broker: ${problem}. Expected MILLRACE_NATS_URL as nats://HOST:PORT or ` +
      `tls://HOST:PORT (several separated by commas) and at most one kind of credentials.`,
    { cause },
  );
}

function parseServerUrl(text: string): URL {
  const withScheme = text.includes("://") ? text : `nats://${text}`;
  let url: URL;
  try {
    url = new URL(withScheme);
  } catch (cause) {
    // The text stays out of the message: it may hold a password.
    throw invalid("MILLRACE_NATS_URL is not a URL", cause);
  }
  if (url.protocol !== "nats:" && url.protocol !== "tls:") {
    throw invalid(`MILLRACE_NATS_URL has the scheme "${url.protocol}//"`);
  }
  if (url.hostname === "") throw invalid("MILLRACE_NATS_URL names no host");
  return url;
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch (cause) {
    throw invalid("the credentials in MILLRACE_NATS_URL are not percent-encoded", cause);
  }
}

function credentials(env: Environment, urls: readonly URL[]): BrokerConnectionOptions {
  const user = env["MILLRACE_NATS_USER"];
  const pass = env["MILLRACE_NATS_PASSWORD"];
  const token = env["MILLRACE_NATS_TOKEN"];
  const credsFile = env["MILLRACE_NATS_CREDS"];
  const given = [
    user === undefined && pass === undefined ? undefined : "MILLRACE_NATS_USER and MILLRACE_NATS_PASSWORD",
    token === undefined ? undefined : "MILLRACE_NATS_TOKEN",
    credsFile === undefined ? undefined : "MILLRACE_NATS_CREDS",
  ].filter((name) => name !== undefined);
  if (given.length > 1) throw invalid(`${given.join(" and ")} are set together`);

  if (credsFile !== undefined) {
    return { authenticator: credsAuthenticator(readable("MILLRACE_NATS_CREDS", credsFile)) };
  }
  if (token !== undefined) return { token };
  if (user !== undefined && pass !== undefined) return { user, pass };
  if (user !== undefined || pass !== undefined) {
    throw invalid("only one of MILLRACE_NATS_USER and MILLRACE_NATS_PASSWORD is set");
  }
  const inUrls = new Map(urls.map((url) => [`${url.username}:${url.password}`, url]));
  if (inUrls.size > 1) throw invalid("the servers in MILLRACE_NATS_URL have different credentials");
  const [url] = urls;
  if (url === undefined || url.username === "") return {};
  if (url.password === "") return { token: decoded(url.username) };
  return { user: decoded(url.username), pass: decoded(url.password) };
}

function tls(env: Environment, required: boolean): BrokerConnectionOptions {
  const caFile = env["MILLRACE_NATS_CA"];
  const certFile = env["MILLRACE_NATS_CERT"];
  const keyFile = env["MILLRACE_NATS_KEY"];
  if ((certFile === undefined) !== (keyFile === undefined)) {
    throw invalid("only one of MILLRACE_NATS_CERT and MILLRACE_NATS_KEY is set");
  }
  if (!required && caFile === undefined && certFile === undefined) return {};
  // Read by the client itself at each (re)connect, so that renewed certificates are taken up; checked now, since the
  // client reports a missing file as a connection error without its name.
  for (const [name, path] of [
    ["MILLRACE_NATS_CA", caFile],
    ["MILLRACE_NATS_CERT", certFile],
    ["MILLRACE_NATS_KEY", keyFile],
  ] as const) {
    if (path !== undefined) assertReadable(name, path);
  }
  return {
    tls: {
      ...(caFile === undefined ? {} : { caFile }),
      ...(certFile === undefined ? {} : { certFile }),
      ...(keyFile === undefined ? {} : { keyFile }),
    },
  };
}

function unreadable(name: string, path: string, cause: unknown): MillraceError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new MillraceError(
    "broker_auth_failed",
    `${name} names the file ${path}, which cannot be read (${reason}). Correct the path or the permissions.`,
    { cause, details: { variable: name, path } },
  );
}

function readable(name: string, path: string): Uint8Array {
  try {
    return readFileSync(path);
  } catch (cause) {
    throw unreadable(name, path, cause);
  }
}

function assertReadable(name: string, path: string): void {
  try {
    accessSync(path, constants.R_OK);
  } catch (cause) {
    throw unreadable(name, path, cause);
  }
}

/** An error and what caused it, outermost first; bounded, since causes can form a ring. */
function causes(error: unknown): Error[] {
  const chain: Error[] = [];
  let current = error;
  while (current instanceof Error && chain.length < 8) {
    chain.push(current);
    current = current.cause;
  }
  return chain;
}

const certificateCodes = new Set([
  "CERT_HAS_EXPIRED",
  "CERT_NOT_YET_VALID",
  "CERT_UNTRUSTED",
  "CERT_REJECTED",
  "DEPTH_ZERO_SELF_SIGNED_CERT",
  "SELF_SIGNED_CERT_IN_CHAIN",
  "UNABLE_TO_GET_ISSUER_CERT",
  "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
  "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
]);

function isTlsFailure(error: Error): boolean {
  const code = "code" in error && typeof error.code === "string" ? error.code : "";
  // The client has no code of its own for a server without TLS; its text is the only sign.
  const tlsMissing =
    error instanceof errors.ConnectionError && error.message === "server does not support 'tls'";
  return certificateCodes.has(code) || /^ERR_(TLS|SSL|OSSL)_/.test(code) || tlsMissing;
}
