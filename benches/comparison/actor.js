// A process that locks FILE with proper-lockfile, as it is told on standard input: see compare.py.
const lockfile = require("proper-lockfile");
const file = process.argv[2];
let isTold = false;

async function answer(line) {
  const [command, argument] = line.split(" ");
  if (command === "take") {
    // Its wait is a number of retries; every 100 ms here.
    const retries = { retries: Math.ceil(argument * 10), factor: 1, minTimeout: 100 };
    const options = { realpath: false, retries, onCompromised: () => (isTold = true) };
    return lockfile.lock(file, options).then(() => "yes", () => "no");
  }
  if (command === "release") return lockfile.unlock(file, { realpath: false }).then(() => "yes", () => "no");
  // It looks at its file every 5 seconds.
  for (let n = 0; n < 12 && !isTold; n++) await new Promise((resolve) => setTimeout(resolve, 500));
  return isTold ? "yes" : "no";
}

require("readline").createInterface({ input: process.stdin }).on("line", async (line) => {
  console.log(await answer(line));
});
