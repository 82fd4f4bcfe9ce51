#compdef stereosctl
# zsh completion for stereosctl: it asks the command itself what a word may become.
_stereosctl() {
    local -a reply open whole
    reply=("${(@f)$(stereosctl __complete words "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ $reply[1] == files ]]; then
        compset -P '*='
        _files
        return
    fi
    reply=("${(@)reply[2,-1]}")
    open=(${(M)reply:#*[=/]})
    whole=(${reply:#*[=/]})
    compadd -S '' -- $open
    compadd -- $whole
}
# In a folder of $fpath this file is the body of the function that is asked; sourced, it says whose function it is.
if [ "$funcstack[1]" = "_stereosctl" ]; then
    _stereosctl "$@"
else
    compdef _stereosctl stereosctl
fi
