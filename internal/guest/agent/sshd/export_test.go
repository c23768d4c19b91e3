package sshd

// WithoutShell is what an image without a shell makes of a command line.
var WithoutShell = plainWords
