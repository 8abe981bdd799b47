// What a user would write instead of running a sidecar of their own language: the vendor's SDK behind Envoy's
// external-authorization call. node server.js <socket>; the environment says which project, and where its API is.
"use strict";

const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");
const stytch = require("stytch");

const { STYTCH_PROJECT_ID, STYTCH_SECRET, STYTCH_ENV } = process.env;

const client = new stytch.Client({
  project_id: STYTCH_PROJECT_ID,
  secret: STYTCH_SECRET,
  env: STYTCH_ENV, // a base URL; unset: the vendor's own for the project
});

// google.rpc.Code
const OK = 0;
const UNAUTHENTICATED = 16;

const bearer = /^bearer +([^ ]+)$/i;
const sessionCookie = /(?:^|[;,]) *stytch_session_jwt=([^;,]*)/;

function sessionJWT(headers) {
  return bearer.exec(headers.authorization ?? "")?.[1] ?? sessionCookie.exec(headers.cookie ?? "")?.[1];
}

function header(key, value) {
  return { header: { key, value }, append_action: "OVERWRITE_IF_EXISTS_OR_ADD" };
}

const unauthenticated = {
  status: { code: UNAUTHENTICATED },
  denied_response: { status: { code: 401 }, body: '{"error":"unauthenticated"}' },
};

async function check({ request }, callback) {
  const session_jwt = sessionJWT(request.attributes?.request?.http?.headers ?? {});
  if (!session_jwt) {
    return callback(null, unauthenticated);
  }
  try {
    const session = await client.sessions.authenticateJwtLocal({ session_jwt });
    callback(null, {
      status: { code: OK },
      ok_response: { headers: [header("x-auth-subject", session.user_id), header("x-auth-session-id", session.session_id)] },
    });
  } catch {
    callback(null, unauthenticated);
  }
}

const definition = protoLoader.loadSync(path.join(__dirname, "authorization.proto"), { keepCase: true });
const { Authorization } = grpc.loadPackageDefinition(definition).envoy.service.auth.v3;

const server = new grpc.Server();
server.addService(Authorization.service, { check });
server.bindAsync(`unix:${process.argv[2]}`, grpc.ServerCredentials.createInsecure(), (err) => {
  if (err) throw err;
});
process.once("SIGTERM", () => server.tryShutdown(() => process.exit()));
