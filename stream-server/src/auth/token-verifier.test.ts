import { createServer } from "node:http";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { exportJWK, exportSPKI, generateKeyPair, SignJWT, type CryptoKey, type JWK } from "jose";
import type { MillraceError } from "@millrace/schemas";
import { afterEach, describe, expect, it } from "vitest";
import { createTokenVerifier, type TokenVerifier } from "./token-verifier.ts";

const secret = "0123456789abcdef0123456789abcdef";
const bytes = (text: string) => new TextEncoder().encode(text);
const ends: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0)) await end();
});

type Claims = Readonly<Record<string, unknown>>;
const inOneHour = () => Math.floor(Date.now() / 1_000) + 3_600;
const full = (): Claims => ({
  sub: "ada",
  iss: "me",
  aud: "stream",
  exp: inOneHour(),
  millrace: [{ namespace: "shop", may: ["read"] }],
});

function sign(claims: Claims, alg = "HS256", key: CryptoKey | Uint8Array = bytes(secret), kid?: string) {
  return new SignJWT({ ...claims })
    .setProtectedHeader({ alg, ...(kid === undefined ? {} : { kid }) })
    .sign(key);
}
async function reasonOf(verify: TokenVerifier, token: string): Promise<unknown> {
  const said = await verify(token).then(
    () => ({ code: "accepted", message: "", details: {} as { readonly reason?: string } }),
    (error: unknown) => error as MillraceError & { readonly details: { readonly reason?: string } },
  );
  // T2, with every refusal of this file.
  expect(`${said.message} ${JSON.stringify(said.details)}`).not.toContain(token);
  return said.code === "unauthenticated" ? said.details.reason : said.code;
}

describe("tokens signed by a secret", () => {
  const verify = createTokenVerifier({ secret, issuer: "me", audience: "stream", namespace: "shop" });

  it("give subject, grants and expiry", async () => {
    const claims = full();
    expect(await verify(await sign(claims))).toEqual({
      subject: "ada",
      grants: [{ may: ["read"] }],
      expiresAt: Number(claims["exp"]) * 1_000,
    });
  });

  it.each<[string, Claims, string]>([
    ["no exp", { exp: undefined }, "claim"],
    ["no sub", { sub: undefined }, "claim"],
    ["an empty sub", { sub: "" }, "sub"],
    ["another iss", { iss: "you" }, "claim"],
    ["another aud", { aud: "mail" }, "claim"],
    ["no aud", { aud: undefined }, "claim"],
    ["an exp beyond the skew", { exp: inOneHour() - 3_610 }, "expired"],
    ["an nbf beyond the skew", { nbf: inOneHour() - 3_540 }, "claim"],
    ["a claim that is no list", { millrace: "all" }, "claim"],
  ])("are refused with %s", async (_what, change, reason) => {
    expect(await reasonOf(verify, await sign({ ...full(), ...change }))).toBe(reason);
  });

  it("are taken when clocks differ by less than the skew", async () => {
    const at = inOneHour();
    const token = await sign({ ...full(), exp: at, nbf: at - 60 });
    await verify(token, new Date((at + 4) * 1_000));
    await verify(token, new Date((at - 64) * 1_000));
    await expect(verify(token, new Date((at + 6) * 1_000))).rejects.toMatchObject({
      details: { reason: "expired" },
    });
  });

  it("T1 are refused with alg none, another secret, another hash, or nonsense", async () => {
    const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
    expect(await reasonOf(verify, `${part({ alg: "none" })}.${part(full())}.`)).toBe("algorithm");
    expect(await reasonOf(verify, await sign(full(), "HS256", bytes(`${secret}!`)))).toBe("signature");
    expect(await reasonOf(verify, await sign(full(), "HS512", bytes(secret + secret)))).toBe("algorithm");
    expect(await reasonOf(verify, "abc")).toBe("malformed");
    expect(await reasonOf(verify, "x".repeat(100_000))).toBe("size");
  });

  it("need a secret that cannot be guessed, and some key", () => {
    expect(() => createTokenVerifier({ secret: "short", namespace: "shop" })).toThrow(/at least 32/);
    expect(() => createTokenVerifier({ namespace: "shop" })).toThrow(/neither/);
    expect(() => createTokenVerifier({ jwks: "http://keys.example/jwks", namespace: "shop" })).toThrow(
      /https/,
    );
  });
});

interface Pair {
  readonly privateKey: CryptoKey;
  readonly publicKey: CryptoKey;
  readonly jwk: JWK;
}
async function pair(alg: string, kid: string): Promise<Pair> {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true });
  return { privateKey, publicKey, jwk: { ...(await exportJWK(publicKey)), alg, kid } };
}

describe("tokens signed by a private key", () => {
  async function file(keys: readonly JWK[]) {
    const folder = await mkdtemp(join(tmpdir(), "millrace-keys-"));
    ends.push(() => rm(folder, { recursive: true }));
    const path = join(folder, "jwks.json");
    const write = (next: readonly JWK[]) => writeFile(path, JSON.stringify({ keys: next }));
    await write(keys);
    return { path, write };
  }

  it.each(["RS256", "ES256", "EdDSA"])("by %s are verified by the public one", async (alg) => {
    const one = await pair(alg, "one");
    const { path } = await file([one.jwk]);
    const verify = createTokenVerifier({ jwks: path, namespace: "shop" });
    expect(await verify(await sign(full(), alg, one.privateKey, "one"))).toMatchObject({ subject: "ada" });
    const other = await pair(alg, "one");
    expect(await reasonOf(verify, await sign(full(), alg, other.privateKey, "one"))).toBe("signature");
  });

  it("T1 are refused when the public key is used as a secret", async () => {
    const one = await pair("RS256", "one");
    const { path } = await file([one.jwk]);
    const forged = await sign(full(), "HS256", bytes(await exportSPKI(one.publicKey)), "one");
    const alone = createTokenVerifier({ jwks: path, namespace: "shop" });
    expect(await reasonOf(alone, forged)).toBe("algorithm");
    const both = createTokenVerifier({ jwks: path, secret, namespace: "shop" });
    expect(await reasonOf(both, forged)).toBe("signature");
    expect(await reasonOf(both, await sign(full()))).toBe("accepted");
    expect(await reasonOf(both, await sign(full(), "RS256", one.privateKey, "one"))).toBe("accepted");
  });

  it("follow a rotation of the file", async () => {
    const [one, two] = [await pair("EdDSA", "one"), await pair("EdDSA", "two")];
    const { path, write } = await file([one.jwk]);
    const verify = createTokenVerifier({ jwks: path, namespace: "shop", cooldownMs: 0 });
    const later = await sign(full(), "EdDSA", two.privateKey, "two");
    expect(await reasonOf(verify, later)).toBe("key");
    await write([one.jwk, two.jwk]);
    expect(await reasonOf(verify, later)).toBe("accepted");
  });

  it("are not verified, and not refused for good, while the keys cannot be read", async () => {
    const one = await pair("EdDSA", "one");
    const verify = createTokenVerifier({ jwks: "/nowhere/jwks.json", namespace: "shop" });
    expect(await reasonOf(verify, await sign(full(), "EdDSA", one.privateKey, "one"))).toBe("unavailable");
  });

  it("T3 are verified by fetched keys, which unknown ones do not make it fetch again and again", async () => {
    const [one, two] = [await pair("ES256", "one"), await pair("ES256", "two")];
    let fetched = 0;
    let keys = [one.jwk];
    const server = createServer((_request, response) => {
      fetched++;
      response.setHeader("content-type", "application/json").end(JSON.stringify({ keys }));
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    ends.push(async () => {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    });
    const { port } = server.address() as AddressInfo;
    const options = { jwks: `http://127.0.0.1:${port}/jwks`, namespace: "shop" };
    const slow = createTokenVerifier(options);
    expect(await reasonOf(slow, await sign(full(), "ES256", one.privateKey, "one"))).toBe("accepted");
    const unknown = await sign(full(), "ES256", two.privateKey, "two");
    for (let n = 0; n < 10; n++) expect(await reasonOf(slow, unknown)).toBe("key");
    expect(fetched).toBe(1);
    const quick = createTokenVerifier({ ...options, cooldownMs: 0 });
    expect(await reasonOf(quick, unknown)).toBe("key");
    keys = [one.jwk, two.jwk];
    expect(await reasonOf(quick, unknown)).toBe("accepted");
  });
});
