# bash completion for stereosctl: it asks the command itself what a word may become.
_stereosctl() {
    local kind word ends text breaks=
    COMPREPLY=()
    # bash replaces what follows the last = or : alone, where these end a word.
    ends=${COMP_WORDBREAKS//[!=:]/}
    text=${COMP_LINE:0:COMP_POINT}
    text=${text##* }
    if [[ $ends ]]; then
        breaks=${text%"${text##*[$ends]}"}
    fi
    {
        IFS= read -r kind
        while IFS= read -r word; do
            # It is written into the line as it is, between quotes or not, and may be a name that a guest has chosen:
            # a word that the shell would read as anything but itself is left out.
            if [[ $word != *[![:alnum:]_.@%+,/:=-]* ]]; then
                COMPREPLY+=("${word#"$breaks"}")
            fi
        done
    } < <(stereosctl __complete line "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
    if [[ $kind == files ]]; then
        # An empty answer, and what readline itself knows of the names of files.
        COMPREPLY=()
        compopt -o default -o filenames 2>/dev/null
        return
    fi
    compopt +o default 2>/dev/null
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=/] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _stereosctl stereosctl
