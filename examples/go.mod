module ensure

go 1.19

require session-lock.invalid/sessionlock v0.0.0

replace session-lock.invalid/sessionlock => ../bindings/go
