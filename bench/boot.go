package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"banger/internal/guest/channel"
	"banger/internal/guest/proto"
	"banger/internal/model"
)

// machine describes the machine of a VM, so that a plain QEMU can boot the same one.
type machine struct {
	kernel, initramfs string
	tscKHz            string
	memory, vcpus     string
}

// decode runs `banger args...` and decodes the JSON that it prints.
func decode[T any](ctx context.Context, b *bench, args ...string) (T, error) {
	var v T
	cmd := b.banger(ctx, append(args, "--json")...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return v, fmt.Errorf("banger %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return v, json.Unmarshal(out, &v)
}

// boot compares a cold run of `true` with the shortest boot possible: a plain QEMU boots the same
// kernel and initramfs until the agent answers.
func (b *bench) boot(ctx context.Context) ([]row, error) {
	if err := b.learnMachine(ctx); err != nil {
		return nil, err
	}
	bare := func() (time.Duration, error) { return b.bareBoot(ctx) }
	d, err := turns(b.n, b.turn(ctx, "vm", "run", "--rm", "--cold", "--", "true"), bare)
	if err != nil {
		return nil, err
	}
	agent, err := os.Stat(filepath.Join(b.bin, "banger-agent"))
	if err != nil {
		return nil, err
	}
	initramfs, err := os.Stat(b.guest.initramfs)
	if err != nil {
		return nil, err
	}
	return []row{
		{name: "cold vm run --rm -- true", ours: seconds(d[0]),
			other: seconds(d[1]), otherName: "plain QEMU until the agent answers", n: b.n},
		{name: "agent, size of the program", ours: mebibytes(agent.Size()),
			other: mebibytes(initramfs.Size()), otherName: "whole initramfs", n: 1},
	}, nil
}

// learnMachine starts a VM and reads the arguments of its QEMU.
func (b *bench) learnMachine(ctx context.Context) error {
	if _, err := timed(b.banger(ctx, "vm", "run", "--detach", "--cold", "--name", "model")); err != nil {
		return err
	}
	vm, err := decode[model.VM](ctx, b, "vm", "show", "model")
	if err != nil {
		return err
	}
	data, err := os.ReadFile("/proc/" + strconv.Itoa(vm.Runtime.PID) + "/cmdline")
	if err != nil {
		return err
	}
	args := strings.Split(string(data), "\x00")
	initrd := after(args, "-initrd")
	if strings.HasPrefix(initrd, "/proc/self/") || strings.HasPrefix(initrd, "/dev/fd") {
		initrd = strings.Replace(initrd, "/dev/fd/", "/proc/self/fd/", 1)
		initrd = strings.Replace(initrd, "self", strconv.Itoa(vm.Runtime.PID), 1)
	}
	archives, err := os.ReadFile(initrd)
	if err != nil {
		return fmt.Errorf("reading the initramfs of a running VM: %w", err)
	}
	b.guest = machine{
		kernel: after(args, "-kernel"), initramfs: filepath.Join(b.home, "initramfs"),
		memory: after(args, "-m"), vcpus: after(args, "-smp"),
	}
	for _, arg := range strings.Fields(after(args, "-append")) {
		if khz, ok := strings.CutPrefix(arg, "tsc_early_khz="); ok {
			b.guest.tscKHz = khz
		}
	}
	if err := os.WriteFile(b.guest.initramfs, archives, 0o600); err != nil {
		return err
	}
	_, err = timed(b.banger(ctx, "vm", "delete", "--force", "model"))
	return err
}

func after(args []string, flag string) string {
	for i, arg := range args {
		if arg == flag && i+1 < len(args) {
			return args[i+1]
		}
	}
	return ""
}

// bareBoot boots kernel and initramfs, and returns the time until the agent answered.
func (b *bench) bareBoot(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	socket := filepath.Join(b.home, "bare.sock")
	cmdline := "console=ttyS0 8250.nr_uarts=1 reboot=t panic=-1 quiet loglevel=1 cryptomgr.notests " +
		"random.trust_cpu=on tsc=reliable no_timer_check rcupdate.rcu_expedited=1" +
		" initcall_blacklist=crypto_kdf108_init,init_encrypted,load_system_certificate_list tsc_early_khz=" + b.guest.tscKHz
	accel := []string{"-accel", "tcg,thread=multi", "-cpu", "max"}
	if b.guest.tscKHz == "" {
		accel = []string{"-accel", "kvm", "-cpu", "host"}
		cmdline = "console=ttyS0 8250.nr_uarts=1 reboot=t panic=-1 quiet loglevel=1"
	}
	args := []string{"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-M", "microvm,acpi=on,pcie=off,rtc=on,pit=off,pic=off", "-smp", b.guest.vcpus, "-m", b.guest.memory,
		"-kernel", b.guest.kernel, "-initrd", b.guest.initramfs, "-append", cmdline, "-serial", "null",
		"-device", "virtio-serial-device", "-chardev", "socket,id=agent,path=" + socket + ",server=on,wait=off",
		"-device", "virtserialport,chardev=agent,name=" + proto.PortName}
	start := time.Now()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", append(args, accel...)...)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
		os.Remove(socket)
	}()
	if err := hello(ctx, socket); err != nil {
		return 0, fmt.Errorf("waiting for the agent in a plain QEMU: %w", err)
	}
	return time.Since(start), nil
}

// hello connects to the agent at a socket and calls its hello operation.
func hello(ctx context.Context, socket string) error {
	conn, err := dial(ctx, socket)
	if err != nil {
		return err
	}
	session, err := channel.Connect(ctx, conn)
	if err != nil {
		return err
	}
	defer session.Close()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return session.Open(ctx) },
	}}
	resp, err := client.Get("http://agent/v1/hello")
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// dial connects to a socket, and waits until it exists.
func dial(ctx context.Context, socket string) (net.Conn, error) {
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err == nil || ctx.Err() != nil {
			return conn, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Millisecond):
		}
	}
}
