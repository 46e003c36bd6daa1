import { describe, expect, it } from "vitest";
import { assertMay, assertMayFilter, verdictOf } from "./authorize.ts";
import { grantsOf, type Grant, type Principal } from "./principal.ts";

const who = (...grants: Grant[]): Principal => ({ subject: "ada", grants, expiresAt: 0 });
const refusal = (act: () => void): string => {
  try {
    act();
  } catch (error) {
    return `${(error as { code: string }).code}: ${(error as Error).message}`;
  }
  return "allowed";
};

describe("grants of a token", () => {
  it("are nothing without the claim", () => {
    expect(grantsOf(undefined, "shop")).toEqual([]);
    expect(verdictOf(who(), "read", { workflowId: "a", type: "order" })).toBe("refused");
  });

  it("are those of this server's namespace", () => {
    const claim = [
      { namespace: "shop", may: ["read"] },
      { namespace: "sh*", may: ["drive"], type: ["order"] },
      { namespace: "other", may: ["operate"] },
    ];
    expect(grantsOf(claim, "shop")).toEqual([{ may: ["read"] }, { may: ["drive"], type: ["order"] }]);
  });

  it.each([
    [{}],
    [[{ may: ["read"] }]],
    [[{ namespace: "shop", may: ["admin"] }]],
    [[{ namespace: "shop", may: ["read"], types: ["order"] }]],
    [[{ namespace: "shop", may: ["read"], type: [] }]],
    [[{ namespace: "shop", may: ["read"], type: ["or*er"] }]],
  ])("are refused as a whole when one cannot be understood: %j", (claim) => {
    expect(refusal(() => grantsOf(claim, "shop"))).toMatch(/^unauthenticated: .*millrace/);
  });
});

describe("authorize", () => {
  it("allows everything where auth is off", () => {
    expect(verdictOf(null, "operate", {})).toBe("allowed");
    assertMayFilter(null, "read", {});
  });

  it("takes each action for itself", () => {
    const driver = who({ may: ["drive"] });
    expect(verdictOf(driver, "drive", { workflowId: "a" })).toBe("allowed");
    expect(verdictOf(driver, "read", { workflowId: "a" })).toBe("refused");
    expect(verdictOf(driver, "operate", { workflowId: "a" })).toBe("refused");
  });

  it("Z1 does not put two grants together for one run", () => {
    const both = who({ may: ["read"], workflow: ["a"] }, { may: ["read"], type: ["order"] });
    expect(verdictOf(both, "read", { workflowId: "b", type: "mail" })).toBe("refused");
    const half = who(
      { may: ["read"], workflow: ["a"], type: ["mail"] },
      { may: ["read"], workflow: ["b"], type: ["order"] },
    );
    expect(verdictOf(half, "read", { workflowId: "a", type: "order" })).toBe("refused");
    expect(
      refusal(() => assertMayFilter(half, "read", { workflow: ["a", "b"], type: ["mail", "order"] })),
    ).toMatch(/^forbidden/);
  });

  it("Z2 asks for the type where a grant is limited by it", () => {
    const typed = who({ may: ["read"], type: ["order"] });
    expect(verdictOf(typed, "read", { workflowId: "a" })).toBe("needs-type");
    expect(verdictOf(typed, "read", { workflowId: "a", type: "order" })).toBe("allowed");
    expect(verdictOf(typed, "read", { workflowId: "a", type: "mail" })).toBe("refused");
    expect(verdictOf(typed, "read", {})).toBe("refused");
    expect(refusal(() => assertMay(typed, "read", { workflowId: "a" }))).toMatch(/^forbidden/);
  });

  it("matches a trailing * only, and whole names", () => {
    const some = who({ may: ["read"], workflow: ["order-*", "x"] });
    expect(verdictOf(some, "read", { workflowId: "order-1" })).toBe("allowed");
    expect(verdictOf(some, "read", { workflowId: "order" })).toBe("refused");
    expect(verdictOf(some, "read", { workflowId: "xy" })).toBe("refused");
  });

  it("Z3 refuses a filter that is wider than the grants, and names what is allowed", () => {
    const shop = who({ may: ["read"], type: ["order", "cart-*"] });
    assertMayFilter(shop, "read", { type: ["order"] });
    assertMayFilter(shop, "read", { workflow: ["a"], type: ["cart-2", "order"] });
    for (const filter of [{}, { workflow: ["a"] }, { type: ["order", "mail"] }]) {
      expect(refusal(() => assertMayFilter(shop, "read", filter))).toMatch(
        /^forbidden: ada may not read .*type order, cart-\*/,
      );
    }
    assertMayFilter(who({ may: ["read"], type: ["*"] }), "read", {});
  });
});
