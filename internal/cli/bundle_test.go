package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/cli/command"
	"banger/internal/model"
)

// TestBundleHoldsNoSecrets plants secrets wherever a bundle is made from, and looks for them in
// all of it.
func TestBundleHoldsNoSecrets(t *testing.T) {
	home, d := startFake(t)
	planted := map[string]string{
		"env of a VM": "planted-vm-env", "env of a run": "planted-run-env", "a line of an env": "planted-second-line",
		"registry password": "planted-registry", "ssh key": "cGxhbnRlZC1zc2gta2V5", "host key": "cGxhbnRlZC1ob3N0LWtleQ",
		"driver's state": "cGxhbnRlZC1zdGF0ZQ", "env of an image": "planted-image-env",
	}
	d.mu.Lock()
	v := &d.vms[0]
	v.Spec.Env = map[string]string{"TOKEN": planted["env of a VM"], "KEY": "first\n" + planted["a line of an env"], "N": "1"}
	run := v.Spec
	run.Env = map[string]string{"RUN": planted["env of a run"]}
	v.Runtime = &model.Runtime{Driver: "qemu", Spec: &run, State: []byte("planted-state")}
	v.LastError = &model.Failure{Msg: "cannot use " + planted["env of a VM"]}
	id := v.ID
	d.mu.Unlock()

	var all strings.Builder
	for _, secret := range planted {
		all.WriteString("told " + secret + "\r\n")
	}
	docker := filepath.Join(home, "docker")
	files := d.layout.VM(id)
	for path, text := range map[string]string{
		files.ConsoleLog():      "boot\n" + all.String(),
		files.VMMLog():          all.String(),
		d.layout.DaemonLog():    all.String(),
		d.layout.SSHKey():       "-----BEGIN OPENSSH PRIVATE KEY-----\n" + planted["ssh key"] + "\n-----END OPENSSH PRIVATE KEY-----\n",
		files.HostKey():         "-----BEGIN OPENSSH PRIVATE KEY-----\n" + planted["host key"] + "\n-----END OPENSSH PRIVATE KEY-----\n",
		docker + "/config.json": `{"auths":{"reg.io":{"username":"me","password":"` + planted["registry password"] + `"}}}`,
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	delete(planted, "driver's state") // only the record holds it: see below

	file := filepath.Join(home, "report.tar.gz")
	var out, errs bytes.Buffer
	env := []string{"BANGER_HOME=" + home, "DOCKER_CONFIG=" + docker, "PATH=" + os.Getenv("PATH")}
	if code := Main([]string{"daemon", "bundle", file}, command.Stdio{In: strings.NewReader(""), Out: &out, Err: &errs}, env); code != 0 {
		t.Fatalf("exit status %d: %s", code, &errs)
	}
	parts := untar(t, file)
	for what, secret := range planted {
		for name, text := range parts {
			if strings.Contains(text, secret) {
				t.Errorf("%s is in %s", what, name)
			}
		}
		if strings.Contains(out.String()+errs.String(), secret) {
			t.Errorf("%s was printed", what)
		}
	}
	if records := parts["records/vms.json"]; strings.Contains(records, "cGxhbnRlZC1zdGF0ZQ") {
		t.Error("the driver's state is in the records")
	} else if !strings.Contains(records, `"TOKEN": "(removed)"`) || !strings.Contains(records, `"N": "(removed)"`) {
		t.Errorf("the records do not hold the names of the environment: %.900s", records)
	}
	if log := parts["vms/"+id+"/console.log"]; !strings.HasPrefix(log, "boot\n") || !strings.Contains(log, "told (removed)") {
		t.Errorf("the console's log is %q", log)
	}
	for _, name := range []string{"bangerd.log", "goroutines.txt", "status.json", "usage.json", "contents.json"} {
		if parts[name] == "" {
			t.Errorf("%s is missing", name)
		}
	}
}

// untar returns the parts of a bundle by their names below its directory.
func untar(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	gz, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]string{}
	tr := tar.NewReader(gz)
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			return parts
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(hdr.Name, "/")
		parts[name] = string(text)
	}
}
