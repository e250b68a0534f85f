"""`gradtrap confirm`: a user's own training script, run with probes, says which findings are traps.

The parent process (`running`) lints the script and what it imports of its project, starts a child that runs it, and
puts findings and evidence together (`verdicts`, `output`). In the child, `importing` compiles the files of the project
with probes at the sites that matter (`rewriting`), hooks in torch (`hooks`, `modules`) tell what happens between, and
all of it becomes events and measurements (`tracer`). When the run is over, the rules' monitors hear the events
(`replay`), and the evidence is written as data (`evidence`).

This package itself imports nothing of torch: the parent needs none.
"""
