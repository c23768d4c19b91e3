// Package store keeps VM records in SQLite.
//
// A record is one JSON document, with columns for queries and constraints. The database holds only
// durable facts: what a VM is, and what it holds on the host. Facts of the moment are looked up.
//
// Images and kernels are not in the database. Their facts lie beside their files in the cache, so
// that one rename makes both appear.
package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"banger/internal/fault"
	"banger/internal/model"
)

// Store is an open database. It is safe for concurrent use.
type Store struct {
	dir     string
	db      *sql.DB
	backups string // a directory; "": the database has none
	reserve reserve
}

// Options say what a database has besides its file.
type Options struct {
	Backups string // the directory of the backups; "": none are made
	Reserve string // the file of the reserve; "": there is none
	// Check is asked before the schema of a database is changed, which its error prevents. nil: all
	// databases are accepted.
	Check func(context.Context, *Store) error
}

// migrations change a database from version i to i+1. A released migration never changes.
var migrations = []string{
	`CREATE TABLE vms (
		id      TEXT PRIMARY KEY,
		name    TEXT NOT NULL UNIQUE,
		created INTEGER NOT NULL, -- nanoseconds since the epoch
		doc     TEXT NOT NULL     -- model.VM as JSON
	) STRICT`,
	`CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT`,
	// A banger that counts no revisions must not use the database any more.
	`UPDATE vms SET doc = json_set(doc, '$.revision', 1) WHERE json_valid(doc)`,
}

// Open opens the database at path, creates it if it is missing, and updates its schema. It rejects
// a database of a newer banger with fault.Unsupported.
func Open(ctx context.Context, path string) (*Store, error) { return OpenWith(ctx, path, Options{}) }

// OpenWith is Open for a database with backups and a reserve. Before it updates the schema, it
// makes a backup.
func OpenWith(ctx context.Context, path string, opts Options) (*Store, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making the database's directory: %w", err)
	}
	// WAL with synchronous=FULL: a committed record survives a power loss, on which recovery relies
	// (sqlite.org/pragma.html#pragma_synchronous).
	dsn := (&url.URL{Scheme: "file", Path: path, RawQuery: url.Values{"_pragma": {
		"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(ON)",
	}}.Encode()}).String()
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	// SQLite has one writer. Reads are rare, because the manager keeps the records in memory.
	db.SetMaxOpenConns(1)
	s := &Store{db: db, dir: filepath.Dir(path), backups: opts.Backups, reserve: reserve{path: opts.Reserve}}
	err = s.migrate(ctx, opts.Check)
	for err != nil && s.isFull(err) && s.reserve.release() { // opening makes a file, too
		err = s.migrate(ctx, opts.Check)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", path, damaged(err)), db.Close())
	}
	return s, os.Chmod(path, 0o600)
}

func (s *Store) migrate(ctx context.Context, check func(context.Context, *Store) error) error {
	var version int
	if err := s.db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return fmt.Errorf("reading the schema's version: %w", err)
	}
	if version > len(migrations) {
		return fault.New(fault.Unsupported, "its schema has version %d; this banger reads up to %d",
			version, len(migrations)).
			WithHint("A newer banger has used this directory. Run that version, or set BANGER_HOME to another directory.")
	}
	if check != nil && version > 0 && version < len(migrations) {
		if err := check(ctx, s); err != nil {
			return err
		}
	}
	if s.backups != "" && version > 0 && version < len(migrations) {
		if _, err := s.backup(ctx, time.Now(), fmt.Sprintf("schema%d", version)); err != nil {
			return err
		}
	}
	for ; version < len(migrations); version++ {
		if err := s.step(ctx, version); err != nil {
			return fmt.Errorf("migrating the schema from version %d: %w", version, err)
		}
	}
	return nil
}

// step runs one migration and sets the version in the same transaction.
func (s *Store) step(ctx context.Context, version int) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after Commit
	if _, err := tx.ExecContext(ctx, migrations[version]); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version+1)); err != nil {
		return err
	}
	return tx.Commit()
}

// Close closes the database.
func (s *Store) Close() error { return s.db.Close() }

// PutVM inserts or replaces a record. It fails with fault.Exists if another VM has the name.
func (s *Store) PutVM(ctx context.Context, v model.VM) error {
	doc, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding the record of VM %s: %w", v.ID, err)
	}
	err = s.write(ctx, `INSERT INTO vms (id, name, created, doc) VALUES (?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name, doc = excluded.doc`,
		v.ID, v.Spec.Name, v.Created.UnixNano(), string(doc))
	var failed *sqlite.Error
	if errors.As(err, &failed) && failed.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE {
		return fault.New(fault.Exists, "a VM named %q exists already", v.Spec.Name)
	}
	if err != nil {
		return fmt.Errorf("storing the record of VM %s: %w", v.ID, s.noSpace(err))
	}
	return nil
}

// write changes the database. On a full disk it first begins the WAL anew, which makes room in it,
// and then releases the reserve, a step at a time.
func (s *Store) write(ctx context.Context, statement string, args ...any) error {
	_, err := s.db.ExecContext(ctx, statement, args...)
	for more := s.isFull(err); more && s.isFull(err); more = s.reserve.release() {
		if _, full := s.db.ExecContext(ctx, "PRAGMA wal_checkpoint(RESTART)"); full != nil {
			continue
		}
		_, err = s.db.ExecContext(ctx, statement, args...)
	}
	return err
}

// Replenish makes the reserve whole again if there is room for it.
func (s *Store) Replenish() error { return s.reserve.replenish() }

// noSpace adds a kind and a hint to an error of a full disk. It returns other errors unchanged.
func (s *Store) noSpace(err error) error {
	if s.isFull(err) {
		return fault.New(fault.Unavailable, "no space left: %w", err).
			WithHint("Free some space in BANGER_HOME. %s", fault.Relief)
	}
	return err
}

// isFull reports whether an error means that the disk is full. SQLite calls it a failed write if it
// cannot enlarge the file that readers share.
func (s *Store) isFull(err error) bool {
	var failed *sqlite.Error
	if !errors.As(err, &failed) {
		return false
	}
	code := failed.Code() & 0xff
	return code == sqlite3.SQLITE_FULL || code == sqlite3.SQLITE_IOERR && isFull(s.dir)
}

// isFull reports whether a file system has no room for two more pages.
func isFull(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && int64(st.Bavail)*st.Bsize < 1<<20
}

// VMs returns all records, oldest first. It fails if one record is unreadable, because the caller
// removes what no record names.
func (s *Store) VMs(ctx context.Context) ([]model.VM, error) {
	var vms []model.VM
	err := s.each(ctx, func(id, doc string) error {
		v, err := decode(id, doc)
		vms = append(vms, v)
		return err
	})
	if err != nil {
		return nil, err
	}
	return vms, nil
}

// each calls do with each row, the oldest first, until an error.
func (s *Store) each(ctx context.Context, do func(id, doc string) error) error {
	rows, err := s.db.QueryContext(ctx, "SELECT id, doc FROM vms ORDER BY created, id")
	if err != nil {
		return fmt.Errorf("reading the records: %w", damaged(err))
	}
	defer rows.Close()
	for rows.Next() {
		var id, doc string
		if err := rows.Scan(&id, &doc); err != nil {
			return fmt.Errorf("reading the records: %w", damaged(err))
		}
		if err := do(id, doc); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("reading the records: %w", damaged(err))
	}
	return nil
}

func decode(id, doc string) (model.VM, error) {
	var v model.VM
	if err := json.Unmarshal([]byte(doc), &v); err != nil {
		return v, isDamaged("decoding the record of VM %s: %w", id, err)
	}
	if v.ID != id {
		return v, isDamaged("the record of VM %s has the id %q", id, v.ID)
	}
	return v, nil
}

// damaged adds a kind and a hint to an error of a file that SQLite cannot read. It returns other
// errors unchanged.
func damaged(err error) error {
	var failed *sqlite.Error
	if errors.As(err, &failed) && (failed.Code()&0xff == sqlite3.SQLITE_CORRUPT || failed.Code()&0xff == sqlite3.SQLITE_NOTADB) {
		return isDamaged("the database is damaged: %w", err)
	}
	return err
}

func isDamaged(format string, args ...any) error {
	return fault.New(fault.Damaged, format, args...).
		WithHint("Nothing was changed. `banger daemon recover --dry-run` shows what can be recovered.")
}

// DeleteVM removes a record. A missing record is no error.
func (s *Store) DeleteVM(ctx context.Context, id string) error {
	if err := s.write(ctx, "DELETE FROM vms WHERE id = ?", id); err != nil {
		return fmt.Errorf("deleting the record of VM %s: %w", id, s.noSpace(err))
	}
	return nil
}
