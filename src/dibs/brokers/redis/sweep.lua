#!lua flags=allow-oom
-- Move on what only time moves. Called before people look, so that they find what a claim would.
--
-- Returns 1 if there is more than fits a script, and 0 otherwise.

return sweep() and 1 or 0
