package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"banger/internal/disk"
	"banger/internal/fault"
	"banger/internal/image/rootfs"
	"banger/internal/model"
	"banger/internal/step"
)

// debianPackages are a Debian image's packages besides the essential ones: what developers use in a
// shell, and what ssh, rsync and editors need. The agent is process 1, so systemd is not one.
var debianPackages = []string{
	"bash", "ca-certificates", "coreutils", "curl", "file", "git", "iproute2", "iputils-ping", "less", "ncurses-base", "openssh-client",
	"patch", "procps", "python3-minimal", "rsync", "sudo", "unzip", "vim-tiny", "xz-utils",
}

// debianHook runs in the shell with the new root as $1. It adds poweroff, which signals the agent
// as it would signal busybox's init. reboot is left out, because a VM that ends has stopped. A
// package with an init replaces the file.
const debianHook = `printf '#!/bin/sh\nkill -USR2 1\n' >"$1/usr/sbin/poweroff" && ` +
	`chmod 755 "$1/usr/sbin/poweroff" && ln -s poweroff "$1/usr/sbin/halt"`

// debianConfig replaces an OCI configuration for a Debian image.
var debianConfig = model.ImageConfig{
	Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"},
	Cmd: []string{"/bin/bash"},
}

const (
	aptDir       = "/etc/apt"
	buildTimeout = time.Hour
)

// Build makes the image debian:<suite> from the host's apt sources, keys and proxies with
// mmdebstrap. It needs root, user namespaces or fakechroot. A suite that the host's apt lacks is
// fault.Unsupported. SOURCE_DATE_EPOCH makes the image reproducible.
func (s *Store) Build(ctx context.Context, suite string, report step.Reporter) (model.Image, error) {
	ref, err := Parse(builtPrefix + suite)
	if err != nil || ref.Suite == "" {
		return model.Image{}, invalid("%q is not a Debian release that banger can build, which are: %s",
			suite, strings.Join(suites, ", "))
	}
	img, err := s.flights.do(ctx, "build "+suite, report, func(ctx context.Context, report step.Reporter) (model.Image, error) {
		return s.build(ctx, ref, report)
	})
	if err != nil {
		return model.Image{}, fmt.Errorf("building %s: %w", ref.Name, err)
	}
	return img, nil
}

func (s *Store) build(ctx context.Context, ref Ref, report step.Reporter) (_ model.Image, err error) {
	tool, err := disk.Tool("mmdebstrap", "mmdebstrap")
	if err != nil {
		return model.Image{}, err
	}
	sources, err := suiteSources(aptDir, ref.Suite)
	if err != nil {
		return model.Image{}, err
	}
	unlock, waited, err := s.lockBuild(ctx, ref.Suite)
	if err != nil {
		return model.Image{}, err
	}
	defer unlock()
	if waited {
		if img, err := s.Get(ref.Name); err == nil {
			return img, nil // the other process has built it
		}
	}
	b, err := s.locks.newStaging(ctx, s.dir)
	if err != nil {
		return model.Image{}, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	t, sum, err := s.bootstrap(ctx, b, bootstrap{tool: tool, suite: ref.Suite, sources: sources, report: report})
	if err != nil {
		return model.Image{}, disk.NoSpace(err, b.dir)
	}
	return s.install(ctx, b, record{Image: model.Image{
		ID: sum, Source: "debian", Config: debianConfig, Init: t.Init(), Created: time.Now().UTC(),
	}}, claim{name: ref.Name, asked: true})
}

// lockBuild lets one process at a time build a suite, and reports whether it waited for another.
func (s *Store) lockBuild(ctx context.Context, suite string) (unlock func(), waited bool, err error) {
	name := "build " + suite
	if unlock, err = s.locks.try(name); unlock != nil || err != nil {
		return unlock, false, err
	}
	unlock, err = s.locks.lock(ctx, name)
	return unlock, true, err
}

// suiteSources returns the host's apt sources for one suite, in the deb822 format.
func suiteSources(dir, suite string) (string, error) {
	all, err := readAptSources(dir)
	if err != nil {
		return "", err
	}
	sources := forSuite(all, suite)
	if !hasRelease(sources) {
		return "", fault.New(fault.Unsupported, "this machine's apt sources in %s have no release %s", dir, suite).
			WithHint("Add a source for it below %s/sources.list.d, or pull the registry's image: library/debian:%s",
				dir, suite)
	}
	return deb822(sources), nil
}

// bootstrap converts mmdebstrap's output while it is written, and returns the tree and the
// archive's sha256.
func (s *Store) bootstrap(ctx context.Context, b *staging, d bootstrap) (*rootfs.Tree, string, error) {
	out, err := os.OpenFile(b.path(rootfsFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, "", err
	}
	defer out.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, buildTimeout, fmt.Errorf("not done after %v", buildTimeout))
	defer cancel()
	var t *rootfs.Tree
	var sum string
	c := &rootfs.Conversion{Limits: s.opts.Limits, Room: s.opts.Room, Out: out, Report: d.report, Skip: builderLeftover}
	err = d.run(ctx, b.dir, func(ctx context.Context, archive io.ReadCloser) (err error) {
		end := d.report.Track("convert", "packages to ext4")
		t, sum, err = c.Stream(ctx, archive)
		end(err)
		return err
	})
	return t, sum, err
}

// builderLeftover reports whether a path belongs to the machine that built the tree, is a secret
// that all VMs would share, or is only useful during the installation of packages.
func builderLeftover(p string) bool {
	switch p {
	case "/etc/hostname", "/etc/resolv.conf", "/etc/machine-id", "/var/lib/dbus/machine-id", "/var/lib/systemd/random-seed",
		"/etc/apt/apt.conf.d/99mmdebstrap", "/etc/dpkg/dpkg.cfg.d/99mmdebstrap":
		return true
	}
	dir, base := path.Split(p)
	switch dir {
	case "/etc/ssh/":
		return strings.HasPrefix(base, "ssh_host_") && !strings.HasSuffix(base, ".d")
	case "/var/cache/apt/":
		return strings.HasSuffix(base, ".bin")
	case "/var/lib/apt/lists/", "/var/cache/apt/archives/":
		return base != "partial"
	case "/var/log/", "/var/log/apt/":
		return strings.HasSuffix(base, ".log") || strings.HasSuffix(base, ".log.xz")
	}
	return false
}
