"""`stn completion`: complete commands, files and runs in a shell."""

from typing import Literal

from stn_lightning.cli.commands import COMMANDS
from stn_lightning.runs.folder import RUNS
from stn_lightning.runs.shipped_configs import shipped_configs
from stn_lightning.runtime.exit_codes import FINISHED

SCRIPT = """\
_stn() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
    if [[ $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=( $(compgen -W "@COMMANDS@" -- "$word") )
    elif [[ $before == --config || $before == -c ]]; then
        COMPREPLY=( $( (compgen -f -X '!*.y*ml' -- "$word"; compgen -d -- "$word"
            compgen -W "@CONFIGS@" -- "$word") | sort -u) )
    else
        # not compgen -W, which would run a name like $(command)
        COMPREPLY=( $( (cd ./@RUNS@ 2>/dev/null && compgen -d -- "$word"); compgen -f -- "$word") )
    fi
}
complete -o filenames -F _stn stn
"""


def completion(shell: Literal["bash", "zsh"]) -> int:
    """Print a script that completes commands, configuration files and runs.

    Put `eval "$(stn completion bash)"` into ~/.bashrc, or `eval "$(stn completion zsh)"` into
    ~/.zshrc.

    Args:
        shell: bash or zsh.

    Returns:
        0.
    """
    words = {
        "@COMMANDS@": " ".join(COMMANDS),
        "@CONFIGS@": " ".join(map(str, shipped_configs())),
        "@RUNS@": str(RUNS),
    }
    script = SCRIPT
    for name, value in words.items():
        script = script.replace(name, value)
    if shell == "zsh":  # bashcompinit makes it understand bash's script
        script = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n" + script
    print(script, end="")
    return FINISHED
