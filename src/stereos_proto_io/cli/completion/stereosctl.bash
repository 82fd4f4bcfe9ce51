# bash completion for stereosctl: it asks the command itself what a word may become.
_stereosctl() {
    local reply cur breaks text IFS=$'\n'
    reply=($(stereosctl __complete line "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)) || return
    COMPREPLY=()
    if [[ ${reply[0]} == files ]]; then
        # An empty answer, and what readline itself knows of the names of files.
        compopt -o default -o filenames 2>/dev/null
        return
    fi
    compopt +o default 2>/dev/null
    # bash replaces what follows the last = or : alone.
    text=${COMP_LINE:0:COMP_POINT}
    text=${text##* }
    breaks=${text%"${text##*[=:]}"}
    for cur in "${reply[@]:1}"; do
        COMPREPLY+=("${cur#"$breaks"}")
    done
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=/] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _stereosctl stereosctl
