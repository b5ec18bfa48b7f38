// Generate text in Node from a folder of `python -m gpt export --format onnx`, always taking the likeliest token.
//
// npm install @huggingface/transformers
// node docs/generate.js gpt-shakespeare-onnx "ROMEO:" 300

import { existsSync } from "node:fs";
import path from "node:path";

const [folder, prompt, length] = process.argv.slice(2);
if (!existsSync(path.join(folder ?? "", "onnx", "model.onnx")) || !(Number(length) > 0)) {
  console.error("usage: node docs/generate.js FOLDER PROMPT LENGTH, with a folder of `python -m gpt export --format onnx`");
  process.exit(1);
}
const { env, pipeline } = await import("@huggingface/transformers").catch(() => {
  console.error("transformers.js is not installed; npm install --no-save @huggingface/transformers");
  process.exit(1);
});
env.allowRemoteModels = false;
env.localModelPath = path.dirname(path.resolve(folder));
const generate = await pipeline("text-generation", path.basename(path.resolve(folder)));
const [output] = await generate(prompt, { max_new_tokens: Number(length), do_sample: false, return_full_text: false });
process.stdout.write(output.generated_text);
