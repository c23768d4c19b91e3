package sshd

// WithoutShell splits a command line as for an image without a shell.
var WithoutShell = plainWords
