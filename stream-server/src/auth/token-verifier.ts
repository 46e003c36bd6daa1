/**
 * Tokens into principals.
 *
 * Owns: the keys and when they are fetched again. Does not own: what a principal may do (`authorize.ts`).
 *
 * T1 A key is used only with the algorithms of its own kind: a public key never verifies HS256, `none` is nobody's.
 * T2 `exp` and `sub` must be there. No message and no detail contains a token.
 * T3 Unknown `kid`s cause a bounded number of fetches: one in `cooldownMs`.
 */
import { readFile } from "node:fs/promises";
import { isMillraceError, limits, MillraceError } from "@millrace/schemas";
import {
  createLocalJWKSet,
  createRemoteJWKSet,
  decodeProtectedHeader,
  errors,
  jwtVerify,
  type JSONWebKeySet,
  type JWTVerifyGetKey,
  type JWTVerifyOptions,
} from "jose";
import { grantsOf, type Principal } from "./principal.ts";

export interface TokenVerifierOptions {
  /** Tokens signed with this by HS256; at least 32 bytes. */
  readonly secret?: string;
  /** Public keys for RS256, ES256 and EdDSA: `https://` (`http://` on loopback only), or the path of a file. */
  readonly jwks?: string;
  /** Demanded when given. */
  readonly issuer?: string;
  /** Demanded when given. */
  readonly audience?: string;
  /** How far clocks may differ, seconds. Default 5. */
  readonly clockSkewSeconds?: number;
  /** Of this server. */
  readonly namespace: string;
  /** Shortest time between two reads of the key set, milliseconds. Default 30,000. */
  readonly cooldownMs?: number;
}

/** Rejects with `unauthenticated` (details `reason`), or `unavailable` when the keys cannot be fetched. */
export type TokenVerifier = (token: string, now?: Date) => Promise<Principal>;

const asymmetric = ["RS256", "ES256", "EdDSA"];
/** RFC 7518, 3.2: a key of the size of the hash, or larger. */
const secretBytesMin = 32;
const fetchTimeoutMs = 5_000;
/** How long a key that its issuer took back may still be used. */
const keysMaxAgeMs = 600_000;
const subjectChars = 256;

/** Throws `invalid_request` for settings that would let everybody in or nobody. */
export function createTokenVerifier(options: TokenVerifierOptions): TokenVerifier {
  const { secret, jwks, issuer, audience, clockSkewSeconds = 5, namespace, cooldownMs = 30_000 } = options;
  const hmac = secret === undefined ? null : secretKey(secret);
  const keys = jwks === undefined ? null : keySet(jwks, cooldownMs);
  if (hmac === null && keys === null) {
    throw new MillraceError(
      "invalid_request",
      "Auth has neither a secret nor a key set: give one of them, since no token could be verified.",
    );
  }

  return async (token, now = new Date()) => {
    if (token.length > limits.tokenChars)
      throw refused("size", `it has ${token.length} characters, the limit is ${limits.tokenChars}`);
    const verify: JWTVerifyOptions = {
      clockTolerance: clockSkewSeconds,
      currentDate: now,
      requiredClaims: ["exp", "sub"],
      ...(issuer === undefined ? {} : { issuer }),
      ...(audience === undefined ? {} : { audience }),
    };
    try {
      // By the algorithm's kind, and then only with those of that kind: the header chooses no key of another (T1).
      const symmetric = decodeProtectedHeader(token).alg === "HS256";
      const { payload } =
        symmetric && hmac !== null
          ? await jwtVerify(token, hmac, { ...verify, algorithms: ["HS256"] })
          : keys !== null
            ? await jwtVerify(token, keys, { ...verify, algorithms: asymmetric })
            : await jwtVerify(token, hmac ?? new Uint8Array(), { ...verify, algorithms: ["HS256"] });
      const { sub = "", exp = 0 } = payload;
      if (sub === "" || sub.length > subjectChars)
        throw refused("sub", `its subject has ${sub.length} characters, expected 1 to ${subjectChars}`);
      return { subject: sub, grants: grantsOf(payload["millrace"], namespace), expiresAt: exp * 1_000 };
    } catch (error) {
      throw toAuthError(error);
    }
  };
}

function secretKey(secret: string): Uint8Array {
  const key = new TextEncoder().encode(secret);
  if (key.byteLength >= secretBytesMin) return key;
  throw new MillraceError(
    "invalid_request",
    `The secret for tokens has ${key.byteLength} bytes, expected at least ${secretBytesMin}. Make one with: openssl rand -base64 32`,
  );
}

function keySet(source: string, cooldownMs: number): JWTVerifyGetKey {
  if (!/^[a-z][a-z0-9+.-]*:\/\//i.test(source)) return fileKeySet(source, cooldownMs);
  const url = URL.canParse(source) ? new URL(source) : null;
  const loopback = url !== null && ["127.0.0.1", "[::1]", "localhost"].includes(url.hostname);
  if (url === null || !(url.protocol === "https:" || (url.protocol === "http:" && loopback))) {
    throw new MillraceError(
      "invalid_request",
      "The address of the key set is not https:// (http:// is for loopback): whoever changes an answer on its way could sign tokens.",
    );
  }
  return createRemoteJWKSet(url, {
    cooldownDuration: cooldownMs,
    cacheMaxAge: keysMaxAgeMs,
    timeoutDuration: fetchTimeoutMs,
  });
}

/** Read when first needed, and again for a key that it does not have: a rotation needs no restart. */
function fileKeySet(path: string, cooldownMs: number): JWTVerifyGetKey {
  let loaded: { readonly keys: Promise<JWTVerifyGetKey>; readonly at: number } | null = null;
  const load = async (): Promise<JWTVerifyGetKey> => {
    try {
      return createLocalJWKSet(JSON.parse(await readFile(path, "utf8")) as JSONWebKeySet);
    } catch (cause) {
      throw new MillraceError(
        "unavailable",
        `The key set ${path} cannot be read. Check that it is there and is a JSON Web Key Set.`,
        { cause },
      );
    }
  };
  const fresh = () => performance.now() - (loaded?.at ?? -Infinity) < cooldownMs;
  const get = () => {
    loaded ??= { keys: load(), at: performance.now() };
    return loaded.keys;
  };
  return async (header, token) => {
    if (loaded !== null && performance.now() - loaded.at > keysMaxAgeMs) loaded = null;
    try {
      return await (
        await get()
      )(header, token);
    } catch (error) {
      if (fresh()) throw error;
      loaded = null;
      return await (
        await get()
      )(header, token);
    }
  };
}

function refused(reason: string, why: string): MillraceError {
  return new MillraceError("unauthenticated", `The token is refused: ${why}. Get a new one.`, {
    details: { reason },
  });
}

function toAuthError(error: unknown): MillraceError {
  if (isMillraceError(error)) return error;
  if (error instanceof errors.JWTExpired) return refused("expired", "it has expired");
  if (error instanceof errors.JWTClaimValidationFailed)
    return refused("claim", `its claim "${error.claim}" does not fit what this server demands`);
  if (error instanceof errors.JWKSNoMatchingKey || error instanceof errors.JWKSMultipleMatchingKeys)
    return refused("key", "the key set has no single key for it");
  if (error instanceof errors.JOSEAlgNotAllowed || error instanceof errors.JOSENotSupported)
    return refused("algorithm", "its algorithm is not one that this server verifies");
  if (error instanceof errors.JWSSignatureVerificationFailed)
    return refused("signature", "its signature is not right");
  const malformed =
    error instanceof errors.JWTInvalid || error instanceof errors.JWSInvalid || error instanceof TypeError;
  // A fetch that fails is a TypeError too; what is wrong with a token is thrown before any key is asked for.
  if (malformed && !("cause" in error && error.cause !== undefined))
    return refused("malformed", "it is no JSON Web Token");
  return new MillraceError("unavailable", "The keys for tokens cannot be fetched. Try again.", {
    cause: error,
  });
}
