import * as vscode from "vscode";
import { LanguageClient, type LanguageClientOptions } from "vscode-languageclient/node";
import { RESTARTING, advice, serverCommand } from "./server";

const SELECTOR = ["file", "untitled", "vscode-notebook-cell"].map((scheme) => ({ scheme, language: "python" }));

/** The part of the Python extension's interface that is needed. */
interface PythonApi {
  readonly environments: {
    getActiveEnvironmentPath(): { readonly path: string };
    resolveEnvironment(path: { readonly path: string }): Promise<{ readonly executable: { readonly uri?: vscode.Uri } } | undefined>;
    readonly onDidChangeActiveEnvironmentPath: vscode.Event<unknown>;
  };
}

let client: LanguageClient | undefined;
let output: vscode.LogOutputChannel;
let turn: Promise<void> = Promise.resolve();

async function pythonApi(): Promise<PythonApi | undefined> {
  const extension = vscode.extensions.getExtension<PythonApi>("ms-python.python");
  try {
    return extension && (extension.isActive ? extension.exports : await extension.activate());
  } catch {
    return undefined;
  }
}

async function activeInterpreter(): Promise<string | undefined> {
  const environments = (await pythonApi())?.environments;
  const found = environments && (await environments.resolveEnvironment(environments.getActiveEnvironmentPath()));
  return found?.executable.uri?.fsPath;
}

async function start(): Promise<void> {
  const settings = vscode.workspace.getConfiguration("gradtrap");
  if (!settings.get<boolean>("enable", true)) {
    return;
  }
  const chosen = { command: settings.get<string[]>("command", []), interpreter: settings.get<string>("interpreter", "") };
  const run = serverCommand(chosen, await activeInterpreter(), process.platform === "win32");
  const options: LanguageClientOptions = { documentSelector: SELECTOR, outputChannel: output };
  const starting = new LanguageClient("gradtrap", "gradtrap", run, options);
  try {
    await starting.start();
    client = starting;
  } catch (error) {
    const message = advice(run, error instanceof Error ? error.message : String(error));
    output.error(message);
    void vscode.window.showErrorMessage(message);
    await starting.dispose().catch(() => undefined);
  }
}

async function stop(): Promise<void> {
  const stopping = client;
  client = undefined;
  await stopping?.dispose().catch(() => undefined);
}

/** One after the other: a server is not stopped while it starts. */
function restart(): Promise<void> {
  turn = turn.then(stop).then(start);
  return turn;
}

async function fixAll(): Promise<void> {
  await vscode.commands.executeCommand("editor.action.codeAction", {
    kind: "source.fixAll.gradtrap",
    apply: "first",
  });
}

export async function activate(context: vscode.ExtensionContext): Promise<void> {
  output = vscode.window.createOutputChannel("gradtrap", { log: true });
  context.subscriptions.push(
    output,
    vscode.commands.registerCommand("gradtrap.restart", restart),
    vscode.commands.registerCommand("gradtrap.fixAll", fixAll),
    vscode.workspace.onDidChangeConfiguration((event) => {
      if (RESTARTING.some((name) => event.affectsConfiguration(name))) {
        void restart();
      }
    }),
  );
  const environments = (await pythonApi())?.environments;
  if (environments) {
    context.subscriptions.push(environments.onDidChangeActiveEnvironmentPath(() => void restart()));
  }
  await restart();
}

export function deactivate(): Promise<void> {
  turn = turn.then(stop);
  return turn;
}
