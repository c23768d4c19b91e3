//go:build !amd64

package agent

// noopProgram is empty: on this architecture the first command is slower.
const noopProgram = ""
