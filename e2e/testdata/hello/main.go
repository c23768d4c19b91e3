// Hello is the only program of the tests' smallest image. It prints how it was started.
package main

import (
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	dir, _ := os.Getwd()
	fmt.Printf("args %s\ndir %s\nuid %d\ngreeting %s\n", strings.Join(os.Args[1:], " "), dir, os.Getuid(), os.Getenv("GREETING"))
	if len(os.Args) > 1 && os.Args[1] == "cat" {
		if _, err := io.Copy(os.Stdout, os.Stdin); err != nil {
			os.Exit(1)
		}
	}
}
