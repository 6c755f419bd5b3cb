# fish completions for session-lock: session-lock completions fish | source

function __session_lock_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l lines ($words[1] complete -- $words[2..-1] (string unescape -- "$current"; or echo) 2>/dev/null)
    switch "$lines[1]"
        case directories
            __fish_complete_directories $current
        case 'command *'
            set -l at (string split ' ' -- $lines[1])[2]
            # Words of fish are counted from 1.
            set -l command (string escape -- $words[(math $at + 1)..-1])
            complete -C (string join -- ' ' $command "$current")
        case '*'
            printf '%s\n' $lines[2..-1]
    end
end

complete -c session-lock -f -a '(__session_lock_complete)'
