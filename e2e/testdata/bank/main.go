// Bank keeps accounts in an SQLite database. "bank run FILE" moves money without end. "bank check
// FILE" checks that the database is whole and the sum of all money is unchanged, and prints the
// number of transfers.
package main

import (
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	_ "modernc.org/sqlite"
)

const (
	accounts = 100
	each     = 1000
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: bank run|check FILE")
		os.Exit(2)
	}
	db, err := sql.Open("sqlite", "file:"+os.Args[2]+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(60000)&_txlock=immediate")
	if err == nil {
		switch os.Args[1] {
		case "run":
			err = run(db)
		default:
			err = check(db)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bank:", err)
		os.Exit(1)
	}
}

func run(db *sql.DB) error {
	err := atOnce(db, func(tx *sql.Tx) error {
		if _, err := tx.Exec(`CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER);
			CREATE TABLE transfers (id INTEGER PRIMARY KEY, source INTEGER, target INTEGER, amount INTEGER);
			CREATE INDEX by_source ON transfers (source, target)`); err != nil {
			return err
		}
		for id := range accounts {
			if _, err := tx.Exec(`INSERT INTO accounts VALUES (?, ?)`, id, each); err != nil {
				return err
			}
		}
		return nil
	})
	for err == nil {
		err = atOnce(db, transfer)
		time.Sleep(10 * time.Millisecond) // leaves time for other processes
	}
	return err
}

func transfer(tx *sql.Tx) error {
	source, target, amount := rand.IntN(accounts), rand.IntN(accounts), rand.IntN(100)
	for _, s := range []struct {
		id, by int
	}{{source, -amount}, {target, amount}} {
		if _, err := tx.Exec(`UPDATE accounts SET balance = balance + ? WHERE id = ?`, s.by, s.id); err != nil {
			return err
		}
	}
	_, err := tx.Exec(`INSERT INTO transfers (source, target, amount) VALUES (?, ?, ?)`, source, target, amount)
	return err
}

func atOnce(db *sql.DB, do func(*sql.Tx) error) error {
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	if err := do(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

func check(db *sql.DB) error {
	var verdict string
	if err := db.QueryRow(`PRAGMA integrity_check`).Scan(&verdict); err != nil {
		return err
	}
	var sum, wrong, transfers int
	err := db.QueryRow(`SELECT (SELECT sum(balance) FROM accounts), (SELECT count(*) FROM transfers), (SELECT count(*) FROM accounts a WHERE balance != ? +
		(SELECT ifnull(sum(amount), 0) FROM transfers WHERE target = a.id) - (SELECT ifnull(sum(amount), 0) FROM transfers WHERE source = a.id))`, each).
		Scan(&sum, &transfers, &wrong)
	if err != nil {
		return err
	}
	if verdict != "ok" || sum != accounts*each || wrong != 0 || transfers == 0 {
		return fmt.Errorf("integrity: %s; %d in all accounts, %d of them wrong, after %d transfers", verdict, sum, wrong, transfers)
	}
	fmt.Println(transfers)
	return nil
}
