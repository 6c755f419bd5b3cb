module ensure

go 1.19

require sessionlock v0.0.0

replace sessionlock => ../bindings/go
