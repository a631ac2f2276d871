// tests/e2e/clients/node/client.mjs - what a grpc-js client, made of the .proto files alone, gets of a cluster.
//
// usage: client.mjs OPEN GUARDED EMPTY BROKEN HELD LEAVING STANDBY LEADER SHA256, as tests/e2e/clients/python/client.py.
import { createHash } from "node:crypto";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import protobuf from "protobufjs";

const [open, guarded, empty, broken, held, leaving, standby, leader, sha256] = process.argv.slice(2);
const proto = process.env.PROTO;
const files = ["diptych/v1/image.proto", "diptych/v1/model.proto", "diptych/v1/cluster.proto",
  "grpc/health/v1/health.proto", "grpc/reflection/v1/reflection.proto", "grpc/reflection/v1alpha/reflection.proto"];
const api = grpc.loadPackageDefinition(loader.loadSync(files,
  { includeDirs: [proto], keepCase: true, longs: Number, enums: String, oneofs: true, defaults: true }));
const root = new protobuf.Root();
root.resolvePath = (_, target) => (protobuf.common.get(target) ? target : `${proto}/${target}`);
root.loadSync(["google/rpc/status.proto", "google/rpc/error_details.proto"], { keepCase: true });

const walked = new Set(); // rows of the error table that have been met, by their reasons
const expected = new Set(("BAD_FIELD PROMPT_TOO_LONG MESSAGE_TOO_LARGE NO_CREDENTIAL BAD_CREDENTIAL ROLE_REQUIRED MODEL_UNKNOWN " +
  "REQUEST_UNKNOWN WORKER_UNKNOWN REQUEST_ID_REUSED QUOTA OVERLOADED NO_WORKERS DRAINING QUEUE_TIME DEADLINE CANCELLED").split(" "));
let checks = 0;
function check(what, isRight, found) {
  checks++;
  if (isRight) return;
  console.error(`FAILED: ${what}:`, found);
  process.exit(1);
}

const plain = grpc.credentials.createInsecure();
const client = (Service, address) => new Service(address, plain, { "grpc.enable_retries": 0, "grpc.max_send_message_length": -1 });
const soon = (seconds = 20) => ({ deadline: Date.now() + seconds * 1000 });
const unary = (stub, method, request, metadata = new grpc.Metadata()) =>
  new Promise((done, fail) => stub[method](request, metadata, soon(), (error, answer) => (error ? fail(error) : done(answer))));
const bearer = (word) => { const m = new grpc.Metadata(); m.set("authorization", `Bearer ${word}`); return m; };
const request = ({ seed = 5, steps = 4, prompt = "dog", ...more } = {}) =>
  ({ prompt, sampling: { seed, diffusion_steps: steps }, ...more });

async function events(stream) {
  const list = [];
  for await (const { event } of stream) list.push(event);
  return list;
}

function details(error) {
  const found = {};
  const [bytes] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (!bytes) return found;
  for (const any of root.lookupType("google.rpc.Status").decode(bytes).details) {
    const name = any.type_url.split("/").pop();
    found[name.split(".").pop()] = root.lookupType(name).decode(any.value);
  }
  return found;
}

async function refused(what, code, reason, call) {
  try {
    await call();
  } catch (error) {
    const found = details(error);
    check(what, error.code === code && found.ErrorInfo?.reason === reason && found.ErrorInfo?.domain === "diptych",
      [error.code, error.details, found]);
    walked.add(reason);
    return [found, error];
  }
  check(what, false, "was not refused");
}

async function lookAround() {
  for (const version of ["v1", "v1alpha"]) {
    const stream = client(api.grpc.reflection[version].ServerReflection, open).ServerReflectionInfo(soon());
    stream.write({ list_services: "*" });
    stream.write({ file_containing_symbol: "diptych.v1.ImageService" });
    stream.end();
    const answers = [];
    for await (const answer of stream) answers.push(answer);
    const names = answers[0].list_services_response.service.map((service) => service.name);
    check(`reflection ${version} lists services`, names.includes("diptych.v1.ImageService"), names);
    check(`reflection ${version} has files`, answers[1].file_descriptor_response.file_descriptor_proto.length > 0, answers[1]);
  }
  const health = client(api.grpc.health.v1.Health, open);
  for (const service of ["", "ar", "diffusion", "diptych.v1.ImageService", "diptych.v1.ModelService", "diptych.v1.ClusterService"]) {
    const answer = await unary(health, "Check", { service });
    check(`health of '${service}'`, answer.status === "SERVING", answer);
  }
  const watch = health.Watch({ service: "" }, soon());
  for await (const answer of watch) {
    check("health watched", answer.status === "SERVING", answer);
    break;
  }
  const { model } = await unary(client(api.diptych.v1.ModelService, open), "GetModel", {});
  check("the model is ready", model.ready && model.image_tokens > 0, model);
}

async function streamImages(images) {
  const asked = request({ n: 2, request_id: "node-two-images", progress: { previews: 2 } });
  const list = await events(images.Generate(asked, soon(120)));
  const kinds = list.map((event) => event.kind);
  check("first and last event", kinds[0] === "admitted" && kinds.at(-1) === "completed", kinds);
  check("no holes", list.every((event, i) => event.sequence === i + 1), list);
  check("previews", list.some((event) => event.preview && event.preview.image_index === 1), kinds);
  const finals = list.filter((event) => event.kind === "final_image").map((event) => event.final_image);
  check("two images", finals.length === 2, kinds);
  for (const final of finals)
    check("a whole file", createHash("sha256").update(final.data).digest().equals(final.sha256), final);
  const first = finals.find((final) => final.image_index === 0);
  check("the embedded program's bytes", first.sha256.toString("hex") === sha256, first.sha256.toString("hex"));
  const again = await events(images.Watch({ request_id: "node-two-images" }, soon(60)));
  check("Watch repeats them", again.filter((event) => event.kind === "final_image").length === 2, again);
  await refused("the same id for another request", grpc.status.ALREADY_EXISTS, "REQUEST_ID_REUSED",
    () => events(images.Generate(request({ n: 1, request_id: "node-two-images" }), soon())));
}

async function cancelSome(images) {
  const stream = images.Generate(request({ n: 8, steps: 1000, request_id: "node-cancelled" }), soon(120));
  let answer;
  await refused("a cancelled stream", grpc.status.CANCELLED, "CANCELLED", async () => {
    for await (const { event } of stream)
      if (event.kind === "admitted") answer = unary(images, "Cancel", { request_id: "node-cancelled", reason: "changed my mind" });
  });
  check("cancelled", (await answer).state === "JOB_STATE_CANCELLED", await answer);
  const left = images.Generate(request({ n: 8, steps: 1000 }), soon(120));
  const error = await new Promise((done) => { left.on("data", () => left.cancel()); left.on("error", done); });
  check("left", error.code === grpc.status.CANCELLED, error);
}

async function meetErrors(images) {
  const bad = grpc.status.INVALID_ARGUMENT;
  for (const [what, reason, asked] of [
    ["no prompt", "BAD_FIELD", request({ prompt: "" })],
    ["too many images", "BAD_FIELD", request({ n: 1000 })],
    ["a size that is no multiple", "BAD_FIELD", request({ output: { width: 63, height: 63 } })],
    ["a long prompt", "PROMPT_TOO_LONG", request({ prompt: "word ".repeat(3200) })],
  ]) {
    const [found] = await refused(what, bad, reason, () => events(images.Generate(asked, soon())));
    if (reason === "BAD_FIELD") check(`${what}: names the field`, found.BadRequest.field_violations[0].field, found);
  }
  for (const size of [100 << 10, 20 << 20]) { // the second is beyond what any method of the server takes
    const [found, error] = await refused("a message that is too large", grpc.status.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE",
      () => events(images.Generate(request({ prompt: "x".repeat(size) }), soon())));
    check("how large", Number(found.ErrorInfo.metadata.length) > size, found);
    check("do not try again", Number(error.metadata.get("grpc-retry-pushback-ms")[0]) < 0, error.metadata);
  }
  await refused("an unknown model", grpc.status.NOT_FOUND, "MODEL_UNKNOWN",
    () => events(images.Generate(request({ model: "nobody's" }), soon())));
  await refused("an unknown request", grpc.status.NOT_FOUND, "REQUEST_UNKNOWN",
    () => events(images.Watch({ request_id: "never-sent" }, soon())));
  await refused("an unknown worker", grpc.status.NOT_FOUND, "WORKER_UNKNOWN",
    () => unary(client(api.diptych.v1.ClusterService, open), "Drain", { worker: "nobody" }));
}

async function meetGuards() {
  const images = client(api.diptych.v1.ImageService, guarded);
  await refused("no token", grpc.status.UNAUTHENTICATED, "NO_CREDENTIAL", () => events(images.Generate(request(), soon())));
  await refused("a guessed token", grpc.status.UNAUTHENTICATED, "BAD_CREDENTIAL",
    () => events(images.Generate(request(), bearer("guessed-it"), soon())));
  await refused("a client that drains", grpc.status.PERMISSION_DENIED, "ROLE_REQUIRED",
    () => unary(client(api.diptych.v1.ClusterService, guarded), "Drain", { worker: "ar-0" }, bearer("word-of-team-a")));
  const stream = images.Generate(request({ n: 8, steps: 1000 }), bearer("word-of-team-a"), soon(120));
  stream.on("error", () => {});
  await new Promise((done) => stream.once("data", done));
  const [quota] = await refused("a tenant's second request", grpc.status.RESOURCE_EXHAUSTED, "QUOTA",
    () => events(images.Generate(request(), bearer("word-of-team-a"), soon())));
  check("QUOTA says how long", quota.RetryInfo && quota.QuotaFailure, quota);
  const [full, error] = await refused("a full queue", grpc.status.UNAVAILABLE, "OVERLOADED",
    () => events(images.Generate(request(), bearer("word-of-team-b"), soon())));
  check("OVERLOADED says how long", full.RetryInfo && error.metadata.get("grpc-retry-pushback-ms").length === 1, full);
  stream.cancel();
  await refused("no workers", grpc.status.UNAVAILABLE, "NO_WORKERS",
    () => events(client(api.diptych.v1.ImageService, empty).Generate(request(), soon())));
}

// Nobody comes: a wait ends by its own limit or by the server's deadline. Who is told to stop takes nothing new.
async function meetWaits() {
  const images = client(api.diptych.v1.ImageService, held), late = grpc.status.DEADLINE_EXCEEDED;
  const scheduling = { max_queue_time: { seconds: 0, nanos: 300000000 } };
  await refused("a wait of its own", late, "QUEUE_TIME", () => events(images.Generate(request({ scheduling }), soon())));
  await refused("the server's deadline", late, "DEADLINE", () => events(images.Generate(request(), soon())));
  await refused("a coordinator that stops", grpc.status.UNAVAILABLE, "DRAINING",
    () => events(client(api.diptych.v1.ImageService, leaving).Generate(request(), soon())));
}

// A worker that does what none should, python/rogue.py: by the request's id.
async function meetFailures() {
  const images = client(api.diptych.v1.ImageService, broken);
  for (const [kind, code, reason, fact] of [
    ["bug", grpc.status.INTERNAL, "BUG", "error_id"],
    ["poison", grpc.status.FAILED_PRECONDITION, "POISONED", "attempts"],
    ["lost", grpc.status.UNAVAILABLE, "WORKER_LOST", "attempts"],
  ]) {
    const [found] = await refused(`a worker's ${kind}`, code, reason,
      () => events(images.Generate(request({ request_id: `node-${kind}` }), soon(60))));
    check(`${reason} tells more`, found.ErrorInfo.metadata[fact], found);
    expected.add(reason);
  }
}

// It passes calls on to the leader; one that has been passed on already is told who leads.
async function meetStandby() {
  expected.add("NOT_LEADER");
  const mark = new grpc.Metadata();
  mark.set("diptych-forwarded", "1");
  const images = client(api.diptych.v1.ImageService, standby), cluster = client(api.diptych.v1.ClusterService, standby);
  for (const [what, call] of [
    ["Generate", () => events(images.Generate(request(), mark, soon()))],
    ["Watch", () => events(images.Watch({ request_id: "somebodys" }, mark, soon()))],
    ["ListWorkers", () => unary(cluster, "ListWorkers", {}, mark)],
    ["GetScaleHint", () => unary(cluster, "GetScaleHint", {}, mark)],
  ]) {
    const [found] = await refused(`${what} of a standby`, grpc.status.UNAVAILABLE, "NOT_LEADER", call);
    check(`${what}: who leads`, found.ErrorInfo.metadata.leader === leader, found);
  }
  await refused("a request that is passed on", grpc.status.UNAVAILABLE, "NO_WORKERS", () => events(images.Generate(request(), soon())));
  check("GetCluster says who leads", (await unary(cluster, "GetCluster", {})).leader === leader);
}

const images = client(api.diptych.v1.ImageService, open);
await lookAround();
await streamImages(images);
await cancelSome(images);
await meetErrors(images);
await meetGuards();
await meetWaits();
if (broken !== "-") await meetFailures();
if (leader !== "-") await meetStandby();
check("every row of the error table", [...expected].every((reason) => walked.has(reason)), [...expected].filter((reason) => !walked.has(reason)));
console.log(`node ${process.version}, grpc-js: ${checks} checks, ${expected.size} rows of the error table`);
process.exit(0);
