// docs/clients/node/generate.mjs - stream an image from a diptych cluster, previews included.
//
//   npm ci
//   PROTO=../../../proto node generate.mjs 127.0.0.1:50051 "a red circle" out.png
//
// The .proto files are read as they are; nothing is generated beforehand.
import { randomUUID } from "node:crypto";
import { writeFileSync } from "node:fs";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const options = { includeDirs: [process.env.PROTO ?? "proto"], keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true };
const { diptych } = grpc.loadPackageDefinition(loader.loadSync("diptych/v1/image.proto", options));
const [address, prompt, path] = process.argv.slice(2);
const images = new diptych.v1.ImageService(address, grpc.credentials.createInsecure());

const request = { request_id: randomUUID(), prompt, progress: { previews: 3 } };
const parts = [];
let seen = 0;

function take({ event }) {
  seen = Math.max(seen, event.sequence);
  switch (event.kind) {
    case "admitted":
      return console.log(`seed ${event.admitted.seed}, ${event.admitted.queue_position} ahead`);
    case "tokens":
      return console.log(`tokens ${event.tokens.tokens_done}/${event.tokens.tokens_total}`);
    case "steps":
      return console.log(`steps ${event.steps.steps_done}/${event.steps.steps_total}`);
    case "preview":
      return writeFileSync(`${path}.preview-${event.preview.preview_index}.png`, event.preview.data);
    case "chunk": // files above 1 MiB come in parts
      return parts.push(event.chunk.data);
    case "final_image":
      writeFileSync(path, event.final_image.data.length ? event.final_image.data : Buffer.concat(parts));
      return console.log(`${path}: sha256 ${event.final_image.sha256.toString("hex")}`);
  }
}

// A stream that breaks is taken up where it broke.
function listen(stream) {
  stream.on("data", take);
  stream.on("error", (error) => {
    if (error.code === grpc.status.UNAVAILABLE && seen > 0)
      return listen(images.Watch({ request_id: request.request_id, after_sequence: seen }));
    console.error(error.message);
    process.exitCode = 1;
  });
}

listen(images.Generate(request, { deadline: Date.now() + 600_000 }));
