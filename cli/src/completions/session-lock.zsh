#compdef session-lock
# zsh completions for session-lock: in a directory of $fpath as _session-lock, or
# source <(session-lock completions zsh)

_session_lock() {
    local -a lines values displays
    local line
    lines=("${(@f)$(${~words[1]} complete -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    case $lines[1] in
        directories)
            _files -/
            ;;
        command*)
            local at=${lines[1]#command }
            shift $at words
            ((CURRENT -= at))
            _normal
            ;;
        *)
            for line in "${(@)lines[2,-1]}"; do
                values+=("${line%%$'\t'*}")
                displays+=("${line/$'\t'/  -- }")
            done
            compadd -l -d displays -a -- values
            ;;
    esac
}

if [[ $funcstack[1] == _session-lock ]]; then
    _session_lock "$@"
else
    compdef _session_lock session-lock
fi
