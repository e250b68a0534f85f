"""The language server: gradtrap in editors. An adapter: what is a trap, the engine says.

`text` counts as the protocol does; `documents` holds what is open; `checking` runs the engine in the background;
`diagnostics` and `actions` show what it says; `settings` are the editor's; `app` speaks the protocol.
"""
