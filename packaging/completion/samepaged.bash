# Completes samepaged's commands, options and guests in bash, without the functions of the package bash-completion.

# The guests that run, as far as this user may ask libvirt; without names that the shell would take apart.
_samepaged_domains() {
  virsh --quiet --readonly --connect qemu:///system list --name 2>/dev/null </dev/null |
    grep -x '[A-Za-z0-9][A-Za-z0-9._+-]*'
}

_samepaged() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]} words=() files= also=
  # Commands of two words.
  case $command in
    traces) [ "$COMP_CWORD" -le 2 ] || command="traces ${COMP_WORDS[2]}" ;;
    fleet) [ "$COMP_CWORD" -le 2 ] || [ "${COMP_WORDS[2]}" != place ] || command="fleet place" ;;
  esac
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
    sources:-*) words=(--json --no-names --config --connect --mode --reader --traces --help) ;;
    doctor:-*) words=(--json --config --connect --verify-layout --help) ;;
    check-config:-*) words=(--json --help) ;;
    check-config:*) files=yes ;;
    recover:-*) words=(--config --connect --wait --help) ;;
    traces:*) words=(ls show verify prune export import --help) ;;
    "traces ls":-*) words=(--json --help) ;;
    "traces show":-* | "traces verify":-*) words=(--help) ;;
    "traces prune":-*) words=(--max-age --max-bytes --help) ;;
    "traces export":-*) words=(--into --sample --newest --host --domain --help) ;;
    "traces import":-*)
      words=(--into --host --domain --uuid --at --format --config --json --memory --page-sizes --bits --zero-hash)
      words+=(--hash-name --page-size --skip --count --big-endian --help)
      ;;
    "traces "*:*) files=yes ;;
    study:-*) words=(--json --out --labels --pairs --seed --help) ;;
    compare:-*) words=(--json --out --seed --help) ;;
    study:* | compare:*) files=yes ;;
    fleet:-*) words=(--json --engine --master --sample --help) ;;
    fleet:*) files=yes also=place ;;
    "fleet place":-*) words=(--json --memory --limit --keep --moves --sample --seed --help) ;;
    "fleet place":*) files=yes ;;
    scan:* | advise:* | sources:*) mapfile -t words < <(_samepaged_domains) ;;
  esac
  case $COMP_CWORD:$previous in
    1:*) words=(run scan advise sources doctor check-config recover traces study compare fleet --version --help) ;;
    *:--config | *:--web-socket | *:--traces | *:--into | *:--out | *:--labels) files=yes ;;
    *:--mode) words=(auto snapshot precopy sliced live) ;;
    *:--reader) words=(auto process dump) ;;
    *:--format) files= words=(raw elf lime hashes-text hashes-binary) ;;
    *:--bits) files= words=(32 64) ;;
    *:--engine) files= words=(duckdb spark) ;;
    *:--connect | *:--watch | *:--pairs | *:--seed | *:--master | *:--sample | *:--limit | *:--keep | *:--moves)
      files= words=()
      ;;
  esac

  if [ -n "$files" ]; then
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen -f -- "$current" && [ -z "$also" ] || compgen -W "$also" -- "$current")
  else
    mapfile -t COMPREPLY < <(compgen -W "${words[*]}" -- "$current")
  fi
}

complete -F _samepaged samepaged
