//go:build !amd64

package agent

// nothing would be a program that ends at once. Without one a machine's first command is as slow as it is.
const nothing = ""
