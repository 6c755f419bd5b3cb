# bash completions for session-lock: source <(session-lock completions bash)

_session_lock() {
    local at=-1 i word rest=$COMP_LINE line kind= start quoted
    # bash splits words at ":" and "=" too. The words as they are, and where each begins for bash.
    local words=() begins=()
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $rest == [[:blank:]]* || $at -lt 0 ]]; then
            words[++at]=
            begins[at]=$i
        fi
        words[at]+=$word
        rest=${rest#"${rest%%[![:blank:]]*}"}
        rest=${rest#"$word"}
    done
    # The last word as it will be when it is not quoted any more.
    start=${words[at]#[\'\"]}
    start=${start//\\/}
    COMPREPLY=()
    while IFS= read -r line; do
        if [[ ! $kind ]]; then
            kind=$line
        else
            printf -v quoted %q "${line%%$'\t'*}"
            COMPREPLY+=("$quoted")
        fi
    done < <("${words[0]/#\~/$HOME}" complete -- "${words[@]:1:at-1}" "$start" 2>/dev/null)
    case $kind in
        directories)
            compopt -o filenames
            while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -d -- "$start")
            ;;
        command*)
            i=${begins[${kind#command }]}
            if declare -F _command_offset >/dev/null; then
                _command_offset "$i"
            elif ((i == COMP_CWORD)); then
                while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -c -- "$start")
            else
                compopt -o default
            fi
            ;;
        *)
            # bash replaces only what follows the last ":" or "=".
            if ((COMP_CWORD > begins[at])); then
                start=${words[at]%"${words[at]##*[:=]}"}
                COMPREPLY=("${COMPREPLY[@]#"$start"}")
            fi
            ;;
    esac
}

complete -F _session_lock session-lock
