# Completes samepaged's commands, options and guests in bash, without the functions of the package bash-completion.

# The guests that run, as far as this user may ask libvirt; without names that the shell would take apart.
_samepaged_domains() {
  virsh --quiet --readonly --connect qemu:///system list --name 2>/dev/null </dev/null |
    grep -x '[A-Za-z0-9][A-Za-z0-9._+-]*'
}

_samepaged() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]} words=() files=
  # bash makes three words of --option=value.
  if [ "$current" = = ]; then
    current=
  elif [ "$previous" = = ]; then
    previous=${COMP_WORDS[COMP_CWORD-2]}
  fi

  case $command:$current in
    run:-*) words=(--config --web-socket --help) ;;
    scan:-*) words=(--json --config --connect --mode --reader --watch --traces --help) ;;
    advise:-*) words=(--json --config --connect --mode --reader --help) ;;
    doctor:-*) words=(--json --config --connect --verify-layout --help) ;;
    check-config:-*) words=(--json --help) ;;
    check-config:*) files=yes ;;
    recover:-*) words=(--config --connect --help) ;;
    scan:* | advise:*) mapfile -t words < <(_samepaged_domains) ;;
  esac
  case $COMP_CWORD:$previous in
    1:*) words=(run scan advise doctor check-config recover --version --help) ;;
    *:--config | *:--web-socket | *:--traces) files=yes ;;
    *:--mode) words=(auto snapshot precopy sliced live) ;;
    *:--reader) words=(auto process dump) ;;
    *:--connect | *:--watch) words=() ;;
  esac

  if [ -n "$files" ]; then
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen -f -- "$current")
  else
    mapfile -t COMPREPLY < <(compgen -W "${words[*]}" -- "$current")
  fi
}

complete -F _samepaged samepaged
