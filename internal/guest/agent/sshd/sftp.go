package sshd

import (
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/pkg/sftp"
)

// SFTPMain is the program of the sftp subsystem. It takes on the user and groups in args, serves
// the protocol on rw until it ends, and returns the exit status. See the package comment for why it
// is a process of its own.
func SFTPMain(args []string, rw io.ReadWriteCloser, stderr io.Writer) int {
	flags := flag.NewFlagSet("sftp", flag.ContinueOnError)
	flags.SetOutput(stderr)
	uid := flags.Int("uid", -1, "user to become")
	gid := flags.Int("gid", -1, "group to become")
	list := flags.String("groups", "", "supplementary groups, separated by commas")
	dir := flags.String("dir", "/", "directory that relative paths start from")
	if flags.Parse(args) != nil {
		return 2
	}
	if err := serveSFTP(rw, *uid, *gid, *list, *dir); err != nil {
		fmt.Fprintln(stderr, "banger: sftp:", err)
		return 1
	}
	return 0
}

func serveSFTP(rw io.ReadWriteCloser, uid, gid int, list, dir string) error {
	groups, err := parseGroups(list)
	if err != nil {
		return err
	}
	if err := dropRights(uid, gid, groups); err != nil {
		return err
	}
	// The library would put its own option before the targets of relative symbolic links, too.
	if os.Chdir(dir) != nil {
		if err := os.Chdir("/"); err != nil {
			return err
		}
	}
	syscall.Umask(0o022)
	server, err := sftp.NewServer(rw)
	if err != nil {
		return err
	}
	return server.Serve()
}

func parseGroups(list string) ([]int, error) {
	var groups []int
	for _, word := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
		g, err := strconv.Atoi(word)
		if err != nil {
			return nil, fmt.Errorf("group %q is not a number", word)
		}
		groups = append(groups, g)
	}
	return groups, nil
}

// dropRights makes the whole process the user's, permanently.
func dropRights(uid, gid int, groups []int) error {
	if uid < 0 || gid < 0 {
		return fmt.Errorf("no user and group to become")
	}
	if os.Geteuid() != 0 {
		if uid != os.Geteuid() {
			return fmt.Errorf("user %d cannot become user %d", os.Geteuid(), uid)
		}
		return nil
	}
	if err := syscall.Setgroups(groups); err != nil {
		return fmt.Errorf("setting groups: %w", err)
	}
	if err := syscall.Setresgid(gid, gid, gid); err != nil {
		return fmt.Errorf("becoming group %d: %w", gid, err)
	}
	if err := syscall.Setresuid(uid, uid, uid); err != nil {
		return fmt.Errorf("becoming user %d: %w", uid, err)
	}
	return nil
}
