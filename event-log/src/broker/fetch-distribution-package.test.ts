import { expect, test } from "vitest";
import { debianMirrors } from "./fetch-distribution-package.ts";

test("takes mirror and key from a deb822 source, and leaves out security updates, other vendors and disabled ones", () => {
  const text = `
Types: deb
# a comment inside a paragraph
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Types: deb deb-src
URIs: https://vendor.example/apt
Suites: nodistro
Components: main

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://sources-only.example/debian
Suites: bookworm
Components: main
`;
  expect(debianMirrors([{ name: "debian.sources", text }], "bookworm")).toEqual([
    { uri: "http://mirror.example/debian", signedBy: "/usr/share/keyrings/debian-archive-keyring.gpg" },
  ]);
});

test("keeps a key block of a deb822 source whole", () => {
  const key = `\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n -----END PGP PUBLIC KEY BLOCK-----`;
  const text = `Types: deb\nURIs: http://mirror.example/debian\nSuites: stable\nComponents: main\nSigned-By:${key}\n`;
  expect(debianMirrors([{ name: "debian.sources", text }], undefined)).toEqual([
    { uri: "http://mirror.example/debian", signedBy: key },
  ]);
});

test("takes mirror and key from one-line sources, each mirror once", () => {
  const text = `
# deb http://commented.example/debian bookworm main
deb [arch=amd64 signed-by=/etc/apt/keyrings/debian.gpg] https://mirror.example/debian bookworm main contrib # ours
deb https://mirror.example/debian trixie main
deb http://second.example/debian/ sid main
deb-src http://mirror.example/debian bookworm main
deb cdrom:[Debian]/ bookworm main
deb http://no-main.example/debian bookworm contrib
`;
  expect(debianMirrors([{ name: "/etc/apt/sources.list", text }], "bookworm")).toEqual([
    { uri: "https://mirror.example/debian", signedBy: "/etc/apt/keyrings/debian.gpg" },
    { uri: "http://second.example/debian/", signedBy: undefined },
  ]);
});
