// Asks the vendor's own SDK about tokens: node judge.mjs <folder that holds node_modules>
//
// Standard input is one JSON document, {product, project_id, secret, base_url, tokens}. A token is {name} with either
// session_jwt and, if wanted, max_token_age_seconds, or session_token. Standard output has a line of JSON for each, in
// order: {name, verdict, subject, session_id, organization_id, api_calls, error}.
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { text } from "node:stream/consumers";

// The SDK's own time-out is ten minutes, and its fetch does not heed it.
const callTimeout = 5_000;

const require = createRequire(resolve(process.argv[2]) + "/");
const stytch = require("stytch");

// The SDK calls the API with the global fetch; key sets are fetched in another way and don't count.
let calls = 0;
const fetch = globalThis.fetch;
globalThis.fetch = (...request) => {
  calls++;
  return fetch(...request);
};

const { product, project_id, secret, base_url, tokens } = JSON.parse(await text(process.stdin));
const Client = product === "b2b" ? stytch.B2BClient : stytch.Client;
const { sessions } = new Client({ project_id, secret, custom_base_url: base_url });

for (const { name, ...token } of tokens) {
  calls = 0;
  const ruling = await judge(token);
  console.log(JSON.stringify({ name, ...ruling, api_calls: calls }));
}

async function judge(token) {
  const call = "session_token" in token ? sessions.authenticate(token) : sessions.authenticateJwt(token);
  try {
    return allow(await within(callTimeout, call));
  } catch (err) {
    if (err.status_code === undefined) throw err; // not a verdict of the API's: the judge itself failed
    return { verdict: "deny", error: err.error_type };
  }
}

function allow({ session, member_session }) {
  return {
    verdict: "allow",
    subject: session?.user_id ?? member_session?.member_id,
    session_id: session?.session_id ?? member_session?.member_session_id,
    organization_id: member_session?.organization_id,
  };
}

function within(milliseconds, promise) {
  let timer;
  const timeout = new Promise((_, reject) => {
    timer = setTimeout(reject, milliseconds, new Error(`no answer within ${milliseconds} ms`));
  });
  return Promise.race([promise, timeout]).finally(() => clearTimeout(timer));
}
