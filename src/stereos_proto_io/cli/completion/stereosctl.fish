# fish completion for stereosctl: it asks the command itself what a word may become.
function __stereosctl_complete
    set -l begun (commandline -opc)
    set -l text (commandline -ct)
    set -l reply (stereosctl __complete words $begun[2..] "$text" 2>/dev/null)
    if test "$reply[1]" = files
        # Of `NAME=FILE`, of `--option=FILE` and of `--option=NAME=FILE`, what follows the last = is the file.
        set -l head (string match -r '^(?:--[^=]*=)?[^=]*=|^--[^=]*=' -- "$text")
        for path in (__fish_complete_path (string replace -- "$head" "" "$text"))
            echo "$head$path"
        end
    else
        printf '%s\n' $reply[2..]
    end
end
complete -c stereosctl -f -a '(__stereosctl_complete)'
