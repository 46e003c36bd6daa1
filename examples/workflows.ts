/** What `millrace dev --examples` hosts. */
export { hello } from "./hello.ts";
export { order } from "./order.ts";
export { refund } from "./refund.ts";
