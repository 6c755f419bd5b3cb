module session-lock.invalid/sessionlock

go 1.19
