-- Run by tests/test_editors.py: nvim --headless --clean -S neovim.lua FILE
-- Edits the file as a person would, with the built-in client, and writes what it saw as JSON to $GRADTRAP_SEEN.
local seen = {}
local file = vim.fn.argv(0)

local function wait(what, condition)
  if not vim.wait(60000, condition, 20) then
    seen.error = 'waited in vain for ' .. what
    error(seen.error)
  end
end

local function lines()
  local found = {}
  for _, one in ipairs(vim.diagnostic.get(0)) do
    table.insert(found, {
      one.code or one.user_data.lsp.code, one.lnum, one.col, one.end_col, one.severity, one.source,
    })
  end
  table.sort(found, function(a, b) return a[2] < b[2] end)
  return found
end

local function main()
  vim.cmd('edit ' .. vim.fn.fnameescape(file))
  local id = vim.lsp.start_client({
    name = 'gradtrap',
    cmd = vim.fn.split(vim.env.GRADTRAP_COMMAND, '\t'),
    root_dir = vim.fn.fnamemodify(file, ':h'),
    init_options = { ignore = { 'GTR4' } },
  })
  vim.lsp.buf_attach_client(0, id)
  wait('diagnostics', function() return #lines() > 0 end)
  seen.opened = lines()

  -- Typed, not saved: two lines in front, with characters of four bytes.
  vim.api.nvim_buf_set_lines(0, 0, 0, true, { '# 𝛁', "s = '𝛁'" })
  wait('diagnostics after an edit', function() return #lines() > 0 and lines()[1][2] == seen.opened[1][2] + 2 end)
  seen.edited = lines()

  local client = vim.lsp.get_client_by_id(id)
  local function request(method, params)
    local answer = client.request_sync(method, params, 60000, 0)
    if not answer or answer.err then
      error(method .. ': ' .. vim.inspect(answer))
    end
    return answer.result
  end

  local here = { line = seen.edited[1][2], character = seen.edited[1][3] }
  local document = { uri = vim.uri_from_bufnr(0) }
  local hover = request('textDocument/hover', { textDocument = document, position = here })
  seen.hover = vim.split(hover.contents.value, '\n')[1]

  local actions = request('textDocument/codeAction', {
    textDocument = document,
    range = { start = here, ['end'] = here },
    context = { diagnostics = {}, only = { 'quickfix' } },
  })
  seen.titles = vim.tbl_map(function(action) return action.title end, actions)
  vim.lsp.util.apply_workspace_edit(actions[1].edit, client.offset_encoding)
  wait('the fix to count', function() return #lines() == 0 end)
  seen.fixed = vim.api.nvim_buf_get_lines(0, 0, -1, true)

  vim.cmd('undo')
  wait('the trap to come back', function() return #lines() > 0 end)
  local all = request('textDocument/codeAction', {
    textDocument = document,
    range = { start = here, ['end'] = here },
    context = { diagnostics = {}, only = { 'source.fixAll' } },
  })
  local edit = all[1].edit or request('codeAction/resolve', all[1]).edit
  vim.lsp.util.apply_workspace_edit(edit, client.offset_encoding)
  vim.cmd('silent write')
  seen.saved = vim.fn.readfile(file)

  client.stop()
  wait('the server to end', function() return client.is_stopped() end)
  seen.stopped = true
end

local ok, why = pcall(main)
if not ok then seen.error = tostring(why) end
vim.fn.writefile({ vim.fn.json_encode(seen) }, vim.env.GRADTRAP_SEEN)
vim.cmd('qall!')
