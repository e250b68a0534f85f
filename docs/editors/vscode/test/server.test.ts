import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { RESTARTING, advice, serverCommand } from "../src/server";

const MODULE = ["-m", "flake8_gradtrap", "server"];

test("the command of the settings comes first", () => {
  const settings = { command: ["/opt/gradtrap", "server"], interpreter: "/opt/python" };
  assert.deepEqual(serverCommand(settings, "/venv/python", false), { command: "/opt/gradtrap", args: ["server"] });
});

test("then their interpreter, then the active one, then any", () => {
  const none = { command: [], interpreter: "" };
  assert.deepEqual(serverCommand({ ...none, interpreter: "/opt/python" }, "/venv/python", false), {
    command: "/opt/python",
    args: MODULE,
  });
  assert.deepEqual(serverCommand(none, "/venv/python", false), { command: "/venv/python", args: MODULE });
  assert.equal(serverCommand(none, undefined, false).command, "python3");
  assert.equal(serverCommand(none, undefined, true).command, "python");
});

test("a server that does not start comes with advice", () => {
  const said = advice({ command: "/venv/python", args: MODULE }, "it ended");
  assert.match(said, /\/venv\/python -m flake8_gradtrap server\): it ended\. /);
  assert.match(said, /\/venv\/python -m pip install 'flake8-gradtrap\[lsp\]'$/);
  assert.match(advice({ command: "/opt/gradtrap", args: ["server"] }, "it ended"), /setting gradtrap\.command/);
});

test("the manifest knows every setting that is read", () => {
  const manifest = JSON.parse(readFileSync("package.json", "utf-8"));
  const properties = Object.keys(manifest.contributes.configuration.properties);
  const source = readFileSync("src/extension.ts", "utf-8");
  const read = [...source.matchAll(/settings\.get<[^>]+>\("(\w+)"/g)].map((match) => `gradtrap.${match[1]}`);
  for (const name of [...RESTARTING, ...read]) {
    assert.ok(properties.includes(name), name);
  }
  assert.equal(read.length, 3);
});

test("the manifest knows every command", () => {
  const manifest = JSON.parse(readFileSync("package.json", "utf-8"));
  const source = readFileSync("src/extension.ts", "utf-8");
  const registered = [...source.matchAll(/registerCommand\("([\w.]+)"/g)].map((match) => match[1]);
  const declared = manifest.contributes.commands.map((command: { command: string }) => command.command);
  assert.deepEqual(registered.sort(), declared.sort());
});
