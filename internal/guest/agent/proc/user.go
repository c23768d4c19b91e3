package proc

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds on the image's user database. Longer lines are skipped.
const (
	maxDatabase = 1 << 20 // bytes of /etc/passwd and of /etc/group that are read
	maxLine     = 16 << 10
	maxGroups   = 1024
)

// User is what is known about a user of the image.
type User struct {
	Name   string // "" if only the number is known
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary
	Home   string
	Shell  string // "" if the image names none
}

// ErrNoUser reports that the image has no such user or group.
var ErrNoUser = errors.New("no such user or group in the image")

// LookupUser finds a user in the databases below root ("/" in the guest). spec is a user, or
// user:group, each a name or a number; "" is root. A number needs no entry. Without an entry its
// group is 0, as with docker.
func LookupUser(root, spec string) (User, error) {
	name, group, hasGroup := strings.Cut(spec, ":")
	if name == "" {
		name = "0"
	}
	u, err := findUser(root, name)
	if err != nil {
		return User{}, err
	}
	if hasGroup && group != "" {
		gid, err := findGroup(root, group)
		if err != nil {
			return User{}, err
		}
		u.GID = gid
	}
	if u.Name != "" {
		u.Groups, err = memberships(root, u.Name, u.GID)
	}
	return u, err
}

func findUser(root, name string) (User, error) {
	number, isNumber := parseID(name)
	var found *User
	err := eachLine(filepath.Join(root, "etc/passwd"), func(f []string) bool {
		// name:password:uid:gid:comment:home:shell (passwd(5))
		if len(f) < 7 {
			return true
		}
		uid, ok1 := parseID(f[2])
		gid, ok2 := parseID(f[3])
		if !ok1 || !ok2 || f[0] != name && !(isNumber && uid == number) {
			return true
		}
		found = &User{Name: f[0], UID: uid, GID: gid, Home: f[5], Shell: f[6]}
		return false
	})
	switch {
	case err != nil:
		return User{}, err
	case found != nil:
		return *found, nil
	case isNumber && number == 0, name == "root": // the image has no user database
		return User{Name: "root", Home: "/root"}, nil
	case isNumber:
		return User{UID: number, Home: "/"}, nil
	}
	return User{}, fmt.Errorf("user %q: %w", name, ErrNoUser)
}

func findGroup(root, name string) (uint32, error) {
	number, isNumber := parseID(name)
	if isNumber {
		return number, nil
	}
	var gid uint32
	var ok bool
	err := eachLine(filepath.Join(root, "etc/group"), func(f []string) bool {
		// name:password:gid:members (group(5))
		if len(f) >= 3 && f[0] == name {
			gid, ok = parseID(f[2])
		}
		return !ok
	})
	if err == nil && !ok {
		err = fmt.Errorf("group %q: %w", name, ErrNoUser)
	}
	return gid, err
}

// memberships lists the groups of a user, the main one first.
func memberships(root, name string, primary uint32) ([]uint32, error) {
	groups := []uint32{primary}
	err := eachLine(filepath.Join(root, "etc/group"), func(f []string) bool {
		if len(f) < 4 || !slices.Contains(strings.Split(f[3], ","), name) {
			return true
		}
		if gid, ok := parseID(f[2]); ok && !slices.Contains(groups, gid) {
			groups = append(groups, gid)
		}
		return len(groups) < maxGroups
	})
	return groups, err
}

// parseID parses a user's or group's number. The highest number means "no such" to the kernel
// (setresuid(2)).
func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && uint32(n) != ^uint32(0)
}

// eachLine calls f with the fields of each line until f returns false. A missing file has no lines.
func eachLine(path string, f func(fields []string) bool) error {
	// O_NONBLOCK: the image may have a named pipe here.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the image's users: %w", err)
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return fmt.Errorf("reading the image's users: %s is no file", path)
	}
	r := bufio.NewReaderSize(io.LimitReader(file, maxDatabase), maxLine)
	for {
		line, isPrefix, err := r.ReadLine()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the image's users: %w", err)
		}
		if isPrefix {
			for isPrefix && err == nil {
				_, isPrefix, err = r.ReadLine()
			}
			continue
		}
		if !f(strings.Split(string(line), ":")) {
			return nil
		}
	}
}
