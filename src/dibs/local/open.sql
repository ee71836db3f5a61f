-- Opening a file: whose it is, what it must be set to, and the transaction.

-- :: identity
SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)
FROM pragma_application_id, pragma_user_version

-- :: before_creation
PRAGMA page_size = 4096;
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL

-- `temp_store`: the disk may be full. The two fullfsync are what macOS needs to reach the platter.
-- :: set
PRAGMA synchronous = FULL;
PRAGMA fullfsync = ON;
PRAGMA checkpoint_fullfsync = ON;
PRAGMA journal_size_limit = 16777216;
PRAGMA mmap_size = 0;
PRAGMA temp_store = MEMORY;
PRAGMA trusted_schema = OFF;
PRAGMA cell_size_check = ON

-- :: wrong_settings
SELECT 'journal_mode', journal_mode, 'wal' FROM pragma_journal_mode WHERE journal_mode <> 'wal'
UNION ALL
SELECT 'synchronous', synchronous, 2 FROM pragma_synchronous WHERE synchronous <> 2
UNION ALL
SELECT 'fullfsync', fullfsync, 1 FROM pragma_fullfsync WHERE fullfsync <> 1
UNION ALL
SELECT 'page_size', page_size, 4096 FROM pragma_page_size WHERE page_size <> 4096
UNION ALL
SELECT 'auto_vacuum', auto_vacuum, 2 FROM pragma_auto_vacuum WHERE auto_vacuum <> 2
UNION ALL
SELECT 'temp_store', temp_store, 2 FROM pragma_temp_store WHERE temp_store <> 2

-- :: begin
BEGIN IMMEDIATE

-- :: commit
COMMIT

-- :: rollback
ROLLBACK
