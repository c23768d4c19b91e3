package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

func findButton(class string) (string, error) {
	names, _ := filepath.Glob(filepath.Join(class, "event*"))
	for _, path := range names {
		name, err := os.ReadFile(filepath.Join(path, "device/name"))
		// The name is set in drivers/acpi/button.c.
		if err == nil && strings.TrimSpace(string(name)) == "Power Button" {
			return filepath.Base(path), nil
		}
	}
	return "", fmt.Errorf("looking for the power button: %w", os.ErrNotExist)
}

// Parts of struct input_event on 64-bit machines (linux/input.h).
const (
	eventSize  = 24
	eventType  = 16
	eventCode  = 18
	eventValue = 20
	evKey      = 1
	keyPower   = 116
)

func awaitPress(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.Close() })()
	r := bufio.NewReaderSize(f, 64*eventSize)
	event := make([]byte, eventSize)
	for {
		if _, err := io.ReadFull(r, event); err != nil {
			return errors.Join(err, ctx.Err())
		}
		if isPress(event) {
			return nil
		}
	}
}

func isPress(e []byte) bool {
	return e[eventType] == evKey && e[eventType+1] == 0 && e[eventCode] == keyPower && e[eventCode+1] == 0 && e[eventValue] == 1
}
