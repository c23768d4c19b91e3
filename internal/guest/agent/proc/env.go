package proc

import (
	"fmt"
	"strings"
)

// MaxEnv bounds a command's arguments and environment together, in bytes. The kernel accepts a
// quarter of the stack's limit, 2 MiB (execve(2)).
const MaxEnv = 1 << 20

// DefaultPath is the PATH of docker and systemd.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment joins the variables that every command gets with the lists. The last value of a name
// counts.
func environment(u User, tty bool, lists ...[]string) []string {
	base := []string{"PATH=" + DefaultPath, "HOME=" + homeOf(u), "LANG=C.UTF-8"}
	if u.Name != "" {
		base = append(base, "USER="+u.Name, "LOGNAME="+u.Name)
	}
	if u.Shell != "" {
		base = append(base, "SHELL="+u.Shell)
	}
	if tty {
		base = append(base, "TERM=xterm-256color")
	}
	env, place := []string{}, map[string]int{}
	for _, list := range append([][]string{base}, lists...) {
		for _, entry := range list {
			name, _, ok := strings.Cut(entry, "=")
			if !ok || name == "" {
				continue
			}
			if i, known := place[name]; known {
				env[i] = entry
				continue
			}
			place[name] = len(env)
			env = append(env, entry)
		}
	}
	return env
}

func homeOf(u User) string {
	if u.Home == "" {
		return "/"
	}
	return u.Home
}

func lookupEnv(env []string, name string) string {
	for _, entry := range env {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

// checkStrings refuses strings that execve cannot take.
func checkStrings(lists ...[]string) error {
	total := 0
	for _, list := range lists {
		for _, s := range list {
			if strings.IndexByte(s, 0) >= 0 {
				return fmt.Errorf("%.40q holds a NUL byte", s)
			}
			total += len(s) + 1
		}
	}
	if total > MaxEnv {
		return fmt.Errorf("arguments and environment of %d bytes are more than %d", total, MaxEnv)
	}
	return nil
}
