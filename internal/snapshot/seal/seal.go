// Package seal proves which home made a stored snapshot.
//
// A driver loads a snapshot's memory and device state into a VMM. Somebody else's may hold whatever
// its sender likes, and a defect in the VMM's loader then gives the sender the VMM's rights. So a
// home seals the snapshots that it makes, and uses only its own ones as a whole.
//
// A seal is a statement and its HMAC-SHA-256 with the home's key. The statement repeats the
// description without what a copy may change (snapshot.Meta.Bare). It has the digests of all files,
// so a sealed snapshot can leave the home and come back. The key never leaves the home.
//
// A snapshot gets its seal when it is made. One without a valid seal stays without: nobody can find
// out later who made it.
package seal

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/snapshot"
)

const keyLen = sha256.Size

// Key is the key of a home.
type Key struct{ secret []byte }

// statement is what a seal says.
type statement struct {
	Purpose string        `json:"purpose"`
	Meta    snapshot.Meta `json:"meta"`
}

const purpose = "banger: this home made the snapshot"

// Open returns the key in a file. If the file is missing, a key is made.
func Open(file string) (*Key, error) {
	k, err := read(file)
	if errors.Is(err, fs.ErrNotExist) {
		return create(file)
	}
	return k, err
}

func create(file string) (*Key, error) {
	k := &Key{make([]byte, keyLen)}
	rand.Read(k.secret) // never fails (crypto/rand, Go 1.24)
	temp := file + ".part"
	// A crash may have left part of it.
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("making the key of seals: %w", err)
	}
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making the key of seals: %w", disk.NoSpace(err, file))
	}
	_, err = f.Write(k.secret)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = errors.Join(os.Rename(temp, file), disk.SyncDir(filepath.Dir(file)))
	}
	if err != nil {
		return nil, fmt.Errorf("making the key of seals: %w", disk.NoSpace(err, file))
	}
	return k, nil
}

// read reads a key that nobody else can have chosen or read.
func read(file string) (*Key, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the key of seals: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening the key of seals: %w", err)
	}
	owner := int(info.Sys().(*syscall.Stat_t).Uid) // os.File.Stat returns this type on Linux
	if !info.Mode().IsRegular() || owner != os.Geteuid() || info.Mode().Perm()&0o077 != 0 {
		return nil, fault.New(fault.Denied, "%s is not a file that only user %d can read and write (mode %v, user %d)", file, os.Geteuid(), info.Mode(), owner).
			WithHint("If nobody else can have read or changed it: chmod 600 %[1]s. Otherwise remove it; then banger makes another key. Restores of older snapshots use only the disks, unless you add --trust-memory.", file)
	}
	secret, err := io.ReadAll(io.LimitReader(f, keyLen+1))
	if err == nil && len(secret) != keyLen {
		err = fault.New(fault.Damaged, "%s has not exactly %d bytes", file, keyLen).
			WithHint("Remove it; then banger makes another key. Restores of older snapshots use only the disks, unless you add --trust-memory.")
	}
	if err != nil {
		return nil, fmt.Errorf("reading the key of seals: %w", err)
	}
	return &Key{secret}, nil
}

// Seal seals a description with digests of all files.
func (k *Key) Seal(meta snapshot.Meta) (*snapshot.Seal, error) {
	if !meta.Digested() {
		return nil, errors.New("sealing a snapshot: it has files without a digest")
	}
	text, err := json.Marshal(statement{Purpose: purpose, Meta: meta.Bare()})
	if err != nil {
		return nil, fmt.Errorf("sealing a snapshot: %w", err)
	}
	return &snapshot.Seal{Statement: text, MAC: hex.EncodeToString(k.mac(text))}, nil
}

func (k *Key) mac(text []byte) []byte {
	h := hmac.New(sha256.New, k.secret)
	h.Write(text)
	return h.Sum(nil)
}

// Made reports whether this home made the snapshot with a description. The statement is compared as
// this version understands it: a new field of a later version is zero on both sides.
func (k *Key) Made(meta snapshot.Meta) bool {
	if meta.Seal == nil || !meta.Digested() {
		return false
	}
	mac, err := hex.DecodeString(meta.Seal.MAC)
	if err != nil || !hmac.Equal(mac, k.mac(meta.Seal.Statement)) {
		return false
	}
	var said statement
	if err := json.Unmarshal(meta.Seal.Statement, &said); err != nil || said.Purpose != purpose {
		return false
	}
	want, err := json.Marshal(statement{Purpose: purpose, Meta: meta.Bare()})
	if err != nil {
		return false
	}
	got, err := json.Marshal(said)
	return err == nil && bytes.Equal(got, want)
}
