// Run the script of a page of decisions with a small stand-in for the browser, give the first question of each
// kind the answers of the command line, press save, and print the file.
const html = require("fs").readFileSync(process.argv[2], "utf8");
const script = html.match(/<script>([\s\S]*)<\/script>/)[1];
const signs = { "&quot;": '"', "&#x27;": "'", "&lt;": "<", "&gt;": ">", "&amp;": "&" };
const plain = (text) => text.replace(/&(quot|#x27|lt|gt|amp);/g, (sign) => signs[sign]);
const questions = [...html.matchAll(/<fieldset ([^>]*)>/g)].map((found) => {
  const dataset = {};
  for (const one of found[1].matchAll(/data-(\w+)="([^"]*)"/g)) dataset[one[1]] = plain(one[2]);
  const question = { dataset, chosen: null };
  question.querySelector = () => (question.chosen ? { value: question.chosen } : null);
  return question;
});
const heard = {};
const listen = (type, action) => { heard[type] = action; };
let saved = "";
global.Blob = class { constructor(parts) { saved = parts.join(""); } };
URL.createObjectURL = () => "blob:";
const elements = { save: { addEventListener: listen }, answered: { textContent: "" } };
global.document = {
  querySelectorAll: () => questions,
  getElementById: (name) => elements[name],
  addEventListener: listen,
  createElement: () => ({ click() {}, remove() {} }),
  body: { append() {} },
};
global.window = { addEventListener() {} };
eval(script);
for (const [kind, answer] of [["pair", process.argv[3]], ["label", process.argv[4]]]) {
  questions.find((question) => question.dataset.kind === kind).chosen = answer;
}
heard.change();
heard.click();
process.stdout.write(JSON.stringify({ answered: elements.answered.textContent, saved }));
