import { execFile, spawn } from "node:child_process";
import { mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";
import { isMillraceError } from "@millrace/schemas";
import { connect, nkeys } from "nats";
import { afterEach, beforeAll, expect, test } from "vitest";
import { brokerAuthError, connectionOptionsFromEnvironment } from "./connection-options.ts";
import { findBroker } from "./find-broker.ts";

type Environment = Readonly<Record<string, string>>;

let program: string;
let folder: string;
const closing: (() => Promise<void>)[] = [];

beforeAll(async () => {
  program = (await findBroker()).path;
  folder = await mkdtemp(join(tmpdir(), "millrace-auth-"));
});
afterEach(async () => {
  await Promise.all(closing.splice(0).map((close) => close()));
});

/** A server of the user's with this configuration; resolves with its port once it is ready. */
async function serverWith(configuration: string): Promise<number> {
  const config = join(await mkdtemp(join(folder, "server-")), "server.conf");
  await writeFile(config, `host: "127.0.0.1"\nport: -1\n${configuration}`);
  const server = spawn(program, ["-c", config], { stdio: ["ignore", "ignore", "pipe"] });
  const closed = new Promise<void>((resolve) => server.once("close", () => resolve()));
  closing.push(async () => {
    server.kill("SIGKILL");
    await closed;
  });
  let port = 0;
  const said: string[] = [];
  for await (const line of createInterface({ input: server.stderr })) {
    said.push(line);
    port = Number(/Listening for client connections on 127\.0\.0\.1:(\d+)/.exec(line)?.[1] ?? port);
    if (line.includes("Server is ready")) {
      server.stderr.resume();
      return port;
    }
  }
  throw new Error(`Server did not start:\n${said.join("\n")}`);
}

async function reach(env: Environment): Promise<"reached"> {
  const options = { ...connectionOptionsFromEnvironment(env), reconnect: false, timeout: 5_000 };
  try {
    const connection = await connect(options);
    await connection.flush();
    await connection.close();
    return "reached";
  } catch (error) {
    throw brokerAuthError(error, options.servers) ?? error;
  }
}

const refusal = (kind: "credentials" | "tls"): unknown =>
  expect.objectContaining({ code: "broker_auth_failed", details: expect.objectContaining({ kind }) });

test("user and password, from variables and from the URL; wrong ones are told apart and not printed", async () => {
  const port = await serverWith(`authorization { user: "ann", password: "p@ss:word" }`);
  const url = `nats://127.0.0.1:${port}`;
  const given = { MILLRACE_NATS_URL: url, MILLRACE_NATS_USER: "ann", MILLRACE_NATS_PASSWORD: "p@ss:word" };
  await expect(reach(given)).resolves.toBe("reached");
  await expect(reach({ MILLRACE_NATS_URL: `nats://ann:p%40ss%3Aword@127.0.0.1:${port}` })).resolves.toBe(
    "reached",
  );
  const wrong = reach({ ...given, MILLRACE_NATS_PASSWORD: "hunter2" });
  await expect(wrong).rejects.toEqual(refusal("credentials"));
  await expect(wrong).rejects.toThrow(`127.0.0.1:${port} refused the credentials`);
  await expect(wrong).rejects.not.toThrow(/hunter2/);
  await expect(reach({ MILLRACE_NATS_URL: url })).rejects.toEqual(refusal("credentials"));
});

test("token, from the variable and from the URL", async () => {
  const port = await serverWith(`authorization { token: "s3cret" }`);
  const url = `nats://127.0.0.1:${port}`;
  await expect(reach({ MILLRACE_NATS_URL: url, MILLRACE_NATS_TOKEN: "s3cret" })).resolves.toBe("reached");
  await expect(reach({ MILLRACE_NATS_URL: `nats://s3cret@127.0.0.1:${port}` })).resolves.toBe("reached");
  await expect(reach({ MILLRACE_NATS_URL: url, MILLRACE_NATS_TOKEN: "other" })).rejects.toEqual(
    refusal("credentials"),
  );
});

test("credentials file", async () => {
  const { accountPort, creds, strangerCreds } = await serverOfAnOperator();
  const url = `nats://127.0.0.1:${accountPort}`;
  await expect(reach({ MILLRACE_NATS_URL: url, MILLRACE_NATS_CREDS: creds })).resolves.toBe("reached");
  await expect(reach({ MILLRACE_NATS_URL: url, MILLRACE_NATS_CREDS: strangerCreds })).rejects.toEqual(
    refusal("credentials"),
  );
});

test("TLS: own authority, client certificate, and never without it when asked for", async (context) => {
  const made = await selfSigned(folder).catch((error: unknown) => error);
  if (made instanceof Error) return context.skip(`no certificate without openssl: ${made.message}`);
  const { cert, key } = made as { cert: string; key: string };
  const text = JSON.stringify;
  const port = await serverWith(
    `tls { cert_file: ${text(cert)}, key_file: ${text(key)}, ca_file: ${text(cert)}, verify: true }`,
  );
  const url = `tls://localhost:${port}`;
  const pair = { MILLRACE_NATS_CERT: cert, MILLRACE_NATS_KEY: key };
  await expect(reach({ MILLRACE_NATS_URL: url, MILLRACE_NATS_CA: cert, ...pair })).resolves.toBe("reached");
  await expect(reach({ MILLRACE_NATS_URL: url, ...pair })).rejects.toEqual(refusal("tls"));
  // In TLS 1.3 the client has finished when the server misses its certificate, and the server's reset may overtake its
  // alert: such a reset cannot be told from that of a broker that dies.
  const uncertified = reach({ MILLRACE_NATS_URL: url, MILLRACE_NATS_CA: cert });
  await expect(uncertified).rejects.toSatisfy(
    (error: Error & { readonly code?: unknown }) =>
      isMillraceError(error, "broker_auth_failed") || error.code === "ECONNRESET",
  );

  const plain = await serverWith("");
  await expect(reach({ MILLRACE_NATS_URL: `tls://127.0.0.1:${plain}` })).rejects.toEqual(refusal("tls"));
});

async function selfSigned(into: string): Promise<{ cert: string; key: string }> {
  const cert = join(into, "cert.pem");
  const key = join(into, "key.pem");
  const subject = [
    "-subj",
    "/CN=localhost",
    "-addext",
    "subjectAltName=DNS:localhost,IP:127.0.0.1",
    "-days",
    "2",
  ];
  const kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  await promisify(execFile)("openssl", ["req", ...kind, ...subject, "-keyout", key, "-out", cert]);
  return { cert, key };
}

/** A server that trusts one operator, with one account; credentials of a user of it and of a user of nobody's. */
async function serverOfAnOperator(): Promise<{ accountPort: number; creds: string; strangerCreds: string }> {
  type KeyPair = ReturnType<typeof nkeys.createUser>;
  const token = (issuer: KeyPair, subject: KeyPair, type: string): string => {
    const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");
    const claims = {
      jti: `${type}-of-a-test`,
      iat: Math.floor(Date.now() / 1_000),
      iss: issuer.getPublicKey(),
      sub: subject.getPublicKey(),
      name: type,
      nats: {
        type,
        version: 2,
        ...(type === "account" ? { limits: { subs: -1, conn: -1, data: -1, payload: -1 } } : {}),
      },
    };
    const signed = `${encode({ typ: "JWT", alg: "ed25519-nkey" })}.${encode(claims)}`;
    return `${signed}.${Buffer.from(issuer.sign(Buffer.from(signed))).toString("base64url")}`;
  };
  const credsOf = async (account: KeyPair, name: string): Promise<string> => {
    const user = nkeys.createUser();
    const path = join(folder, `${name}.creds`);
    const seed = Buffer.from(user.getSeed()).toString();
    const block = (label: string, content: string, dashes: string): string =>
      `-----BEGIN ${label}-----\n${content}\n${dashes}END ${label}${dashes}\n`;
    const jwt = block("NATS USER JWT", token(account, user, "user"), "------");
    await writeFile(path, `${jwt}\n${block("USER NKEY SEED", seed, "------")}`);
    return path;
  };
  const [operator, account, stranger] = [
    nkeys.createOperator(),
    nkeys.createAccount(),
    nkeys.createAccount(),
  ];
  const accountPort = await serverWith(
    [
      `operator: ${token(operator, operator, "operator")}`,
      `resolver: MEMORY`,
      `resolver_preload: { ${account.getPublicKey()}: ${token(operator, account, "account")} }`,
    ].join("\n"),
  );
  return {
    accountPort,
    creds: await credsOf(account, "user"),
    strangerCreds: await credsOf(stranger, "stranger"),
  };
}
