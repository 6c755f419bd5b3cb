module sessionlock

go 1.19
