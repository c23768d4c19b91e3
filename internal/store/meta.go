package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// HomeKey is the key of the home's id: see internal/home.
const HomeKey = "home"

// StartsKey is the key of the number of starts: see internal/home.
const StartsKey = "starts"

// StateKey is the key of the path of the home's state directory: see internal/home.
const StateKey = "state"

// Meta returns the value of a key that belongs to the whole home, or "" if it has none.
func (s *Store) Meta(ctx context.Context, key string) (string, error) {
	var value string
	known, err := s.hasMeta(ctx)
	if err != nil || !known {
		return "", err
	}
	err = s.db.QueryRowContext(ctx, "SELECT value FROM meta WHERE key = ?", key).Scan(&value)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("reading %s of the home: %w", key, err)
	}
	return value, nil
}

// hasMeta reports whether the database has values at all. One with the first schema has none.
func (s *Store) hasMeta(ctx context.Context) (bool, error) {
	var version int
	if err := s.db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return false, fmt.Errorf("reading the schema's version: %w", damaged(err))
	}
	return version > 1, nil
}

// SetMeta sets the value of a key.
func (s *Store) SetMeta(ctx context.Context, key, value string) error {
	err := s.write(ctx, `INSERT INTO meta (key, value) VALUES (?, ?)
		ON CONFLICT (key) DO UPDATE SET value = excluded.value`, key, value)
	if err != nil {
		return fmt.Errorf("storing %s of the home: %w", key, s.noSpace(err))
	}
	return nil
}
