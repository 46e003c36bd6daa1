/** The names and numbers of `millrace.v1`, apart from its shapes: a page needs these and no schema library. */
export const streamSubprotocol = "millrace.v1";
export const streamProtocolVersion = 1;

export const streamDefaults = {
  /** A socket that sent no `hello` by then is closed with 4502. */
  helloTimeoutMs: 10_000,
  heartbeatMs: 20_000,
} as const;

/** 4000 to 4499: reconnect and resume. 4500 to 4999: final. */
export const closeCodes = {
  draining: 4000,
  tokenExpired: 4001,
  stuck: 4002,
  rebalance: 4003,
  overloaded: 4004,
  heartbeatLost: 4005,
  internal: 4006,
  epochChanged: 4007,
  brokerLost: 4008,
  badFrame: 4500,
  unauthenticated: 4501,
  noHello: 4502,
  forbidden: 4503,
  version: 4506,
  connectionLimit: 4509,
  frameTooBig: 4513,
} as const;

export function isFinalClose(code: number): boolean {
  return code >= 4500 && code <= 4999;
}
