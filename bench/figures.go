package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"banger/internal/api"
	"banger/internal/model"
)

// startUp measures the time before any command does its work.
func (b *bench) startUp(ctx context.Context) ([]row, error) {
	n := 3 * b.n
	d, err := turns(n, b.turn(ctx, "version"), program(ctx, "git", "version"))
	if err != nil {
		return nil, err
	}
	return []row{{name: "banger version", ours: seconds(d[0]),
		other: seconds(d[1]), otherName: "git version", n: n}}, nil
}

// fileSize is the size of the file that cp copies, in bytes.
const fileSize = 64 << 20

// inGuest measures a running VM: round trips, copies, memory.
func (b *bench) inGuest(ctx context.Context) ([]row, error) {
	if _, err := timed(b.banger(ctx, "vm", "run", "--detach", "--name", "box")); err != nil {
		return nil, err
	}
	defer b.banger(context.WithoutCancel(ctx), "vm", "delete", "--force", "box").Run()
	idle, err := b.memory(ctx)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(b.home, "state", "ssh", "config")
	data := make([]byte, fileSize)
	rand.Read(data)
	up, down := filepath.Join(b.home, "up"), filepath.Join(b.home, "down")
	if err := os.WriteFile(up, data, 0o600); err != nil {
		return nil, err
	}
	ssh := func(tool string, args ...string) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			cmd := exec.CommandContext(ctx, tool, append([]string{"-F", config, "-o", "BatchMode=yes"}, args...)...)
			cmd.Env = append(os.Environ(), "BANGER_HOME="+b.home, "PATH="+b.bin+":"+os.Getenv("PATH"))
			return timed(cmd)
		}
	}
	n := 2 * b.n
	trip, err := turns(n, b.turn(ctx, "vm", "exec", "box", "--", "true"), ssh("ssh", "box.vm", "true"))
	if err != nil {
		return nil, err
	}
	to, err := turns(b.n, b.turn(ctx, "vm", "cp", up, "box:/tmp/file"), ssh("scp", up, "box.vm:/tmp/scp"))
	if err != nil {
		return nil, err
	}
	from, err := turns(b.n, b.turn(ctx, "vm", "cp", "box:/tmp/file", down), ssh("scp", "box.vm:/tmp/scp", down+".scp"))
	if err != nil {
		return nil, err
	}
	status, err := decode[api.Status](ctx, b, "daemon", "status")
	if err != nil {
		return nil, err
	}
	busy, err := b.memory(ctx)
	if err != nil {
		return nil, err
	}
	return []row{
		{name: "vm exec NAME -- true", ours: seconds(trip[0]),
			other: seconds(trip[1]), otherName: "ssh NAME.vm true", n: n},
		{name: "cp into the VM", ours: rate(fileSize, to[0]),
			other: rate(fileSize, to[1]), otherName: "scp", n: b.n, biggerGood: true},
		{name: "cp out of the VM", ours: rate(fileSize, from[0]),
			other: rate(fileSize, from[1]), otherName: "scp", n: b.n, biggerGood: true},
		{name: "daemon, resident", ours: mebibytes(int64(status.RSS)),
			other: mebibytes(int64(busy.Memory)), otherName: "the VM's QEMU (proportional)", n: 1},
		{name: "agent, resident after the boot", ours: mebibytes(idle.Guest.AgentRSS),
			other: mebibytes(idle.Guest.MemUsed), otherName: "all used memory of the guest", n: 1},
		{name: "agent, resident after copies", ours: mebibytes(busy.Guest.AgentRSS),
			other: mebibytes(busy.Guest.MemUsed), otherName: "all used memory of the guest", n: 1},
	}, nil
}

// memory returns what the VM box and its agent use now.
func (b *bench) memory(ctx context.Context) (model.Stats, error) {
	all, err := decode[[]model.Stats](ctx, b, "vm", "stats", "box")
	if err != nil {
		return model.Stats{}, err
	}
	if len(all) != 1 || all[0].Guest == nil {
		return model.Stats{}, fmt.Errorf("the guest does not report its memory")
	}
	return all[0], nil
}

// list measures `vm list` with many records, which it makes through the API.
func (b *bench) list(ctx context.Context) ([]row, error) {
	n := 2 * b.n
	few, err := turns(n, b.turn(ctx, "vm", "list"))
	if err != nil {
		return nil, err
	}
	client := api.Dial(filepath.Join(b.home, "run", "bangerd.sock"))
	defer client.Close()
	var wg sync.WaitGroup
	errs := make(chan error, b.records)
	slots := make(chan struct{}, 8)
	start := time.Now()
	for i := range b.records {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			_, err := client.VMs().Create(ctx, model.Create{Name: "vm-" + strconv.Itoa(i)}, nil)
			errs <- err
		})
	}
	wg.Wait()
	made := time.Since(start)
	close(errs)
	for err := range errs {
		if err != nil {
			return nil, err
		}
	}
	many, err := turns(n, b.turn(ctx, "vm", "list"))
	if err != nil {
		return nil, err
	}
	records := strconv.Itoa(b.records)
	return []row{
		{name: "vm list with " + records + " records", ours: seconds(many[0]),
			other: seconds(few[0]), otherName: "vm list with none", n: n},
		{name: "vm create, each of " + records, ours: seconds(made / time.Duration(b.records)), otherName: "", n: b.records},
	}, nil
}

// image measures the conversion of an OCI tarball to ext4 against mke2fs on an unpacked tree.
func (b *bench) image(ctx context.Context) ([]row, error) {
	rootfs := filepath.Join(cacheDir, "rootfs.tar")
	if _, err := os.Stat(rootfs); err != nil {
		if _, err := timed(exec.CommandContext(ctx, "mmdebstrap", "--quiet", "--variant=minbase", "--include=python3-minimal,perl",
			"bookworm", filepath.Join(cacheDir, "new-rootfs.tar"))); err != nil {
			return nil, err
		}
		if err := os.Rename(filepath.Join(cacheDir, "new-rootfs.tar"), rootfs); err != nil {
			return nil, err
		}
	}
	tree, archive := filepath.Join(b.home, "tree"), filepath.Join(b.home, "image.tar")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return nil, err
	}
	if _, err := timed(exec.CommandContext(ctx, "tar", "--exclude=./dev/*", "-C", tree, "-xf", rootfs)); err != nil {
		return nil, err
	}
	size, err := writeImage(rootfs, archive)
	if err != nil {
		return nil, err
	}
	ext4 := filepath.Join(b.home, "tree.ext4")
	ours := func() (time.Duration, error) {
		d, err := timed(b.banger(ctx, "image", "import", archive, "--name", "measured"))
		if err != nil {
			return 0, err
		}
		_, err = timed(b.banger(ctx, "image", "delete", "measured"))
		return d, err
	}
	d, err := turns(b.n, ours, func() (time.Duration, error) {
		defer os.Remove(ext4)
		return timed(exec.CommandContext(ctx, "mkfs.ext4", "-q", "-d", tree, ext4, "2G"))
	})
	if err != nil {
		return nil, err
	}
	return []row{{name: "OCI tarball to ext4", ours: rate(size, d[0]),
		other: rate(size, d[1]), otherName: "mkfs.ext4 -d of the unpacked tree", n: b.n, biggerGood: true}}, nil
}

// writeImage makes a docker-archive of one uncompressed layer and returns the layer's size.
func writeImage(rootfs, archive string) (int64, error) {
	info, err := os.Stat(rootfs)
	if err != nil {
		return 0, err
	}
	layer, err := tarball.LayerFromFile(rootfs)
	if err != nil {
		return 0, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return 0, err
	}
	tag, err := name.NewTag("bench:latest")
	if err != nil {
		return 0, err
	}
	return info.Size(), tarball.WriteToFile(archive, tag, image)
}
