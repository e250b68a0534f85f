/** Which program the server is, and what to say when it does not start. Knows nothing of the editor, so that it can be tested. */

export interface Settings {
  readonly command: readonly string[];
  readonly interpreter: string;
}

export interface Command {
  readonly command: string;
  readonly args: string[];
}

/** What starts the server. `active`: the interpreter that the Python extension has chosen, if there is one. */
export function serverCommand(settings: Settings, active: string | undefined, windows: boolean): Command {
  const [program, ...args] = settings.command;
  if (program !== undefined) {
    return { command: program, args };
  }
  const python = settings.interpreter || active || (windows ? "python" : "python3");
  return { command: python, args: ["-m", "flake8_gradtrap", "server"] };
}

/** What the user can do about a server that does not start. */
export function advice(command: Command, error: string): string {
  const python = command.args[0] === "-m" ? `${command.command} -m pip install 'flake8-gradtrap[lsp]'` : "";
  const install = python ? ` Install it with: ${python}` : " Look at the setting gradtrap.command.";
  return `gradtrap: the server does not start (${[command.command, ...command.args].join(" ")}): ${error}.${install}`;
}

/** Settings after whose change the server is another program; the others it asks for by itself. */
export const RESTARTING = ["gradtrap.enable", "gradtrap.command", "gradtrap.interpreter"] as const;
